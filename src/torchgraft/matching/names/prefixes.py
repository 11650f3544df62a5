"""Names that agree after one prefix is taken off or put on, as whole segments."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

from torchgraft.core.match import Leaf
from torchgraft.core.names import words
from torchgraft.core.plan import Certainty, Why
from torchgraft.matching.names.wrappers import Side, wrapped_pairs

SAMPLE = 400
TOO_COMMON = 16

Prefix = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Naming:
    """Source name -> target name, the prefix rules behind it (source prefix, target prefix).

    `rivals` are source prefixes that would place as much in the same slots; `homes` are target prefixes (the chosen one
    first, if there are any) that the same tensors would fit as well. `wrapped` are the source names that agree once a module
    in the middle of one side's names is set aside. `parted` are those of which a rule puts another module around a part of a
    module, whose other tensors stay where they are: nothing but the last words of the names speaks for them.
    """

    pairs: Mapping[str, str]
    prefixes: tuple[Prefix, ...]
    rivals: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    wrapped: frozenset[str] = frozenset()
    parted: frozenset[str] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether one rule alone explains all pairs, and no other would as well."""
        return len(self.prefixes) == 1 and not (self.rivals or self.homes or self.wrapped)

    def reason(self, source: Leaf, target: Leaf) -> Why:
        """Return why two leaves belong together by name."""
        if source.name == target.name or source.name in target.also:
            return SAME_NAME
        if source.name in self.wrapped:
            return Why("wrapper", f"same name, with a module around it on one side: {source.name} is {target.name}")
        for old, new in self.prefixes:
            if source.name.startswith(old) and target.name == new + source.name[len(old) :]:
                return reason_of((old, new))
        return Why("prefix", "same name once prefixes are set aside")

    def certainty(self, source: Leaf) -> Certainty:
        """Return how sure the name of a leaf makes its pair."""
        return Certainty.LIKELY if source.name in self.parted else Certainty.CERTAIN


SAME_NAME = Why("same name", "same name")


@lru_cache
def reason_of(rule: Prefix) -> Why:
    """Return why names belong together that a rule makes equal."""
    if rule == ("", ""):
        return SAME_NAME
    old, new = rule
    return Why("prefix", f"same name, with {_said(old)} read as {_said(new)}")


def _said(prefix: str) -> str:
    return f"'{prefix}'" if prefix else "nothing"


def by_name(sources: Iterable[Leaf], targets: Iterable[Leaf]) -> Naming:
    """Return the fewest prefix rules that explain the most, and what they pair.

    A rule (p, q) reads p + rest as q + rest. The identity comes first; then the rule that places the most tensors of
    equal shape, again and again for what is left, as long as a rule places at least two.
    """
    left = {leaf.name: leaf for leaf in sources}
    ours = list(left)
    wanted = {name: leaf for leaf in targets for name in (leaf.name, *leaf.also)}
    theirs = list(wanted)
    counting = Counting(ours, theirs)
    pairs: dict[str, str] = {}
    rules: list[Prefix] = []
    rivals: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    while left and wanted:
        rule, placed, others, places = _best(left, wanted, counting)
        if rule is None:
            break
        rivals = rivals or others
        homes = homes or (places if not rules else ())
        rules.append(rule)
        if len(placed) == len(left):
            pairs.update([(name, wanted[to].name) for name, to in placed.items()])
            left = {}  # nothing is to be looked for in another module
            break
        for name, to in placed.items():
            leaf = wanted[to]
            pairs[name] = leaf.name
            del left[name]
            for alias in (leaf.name, *leaf.also):
                wanted.pop(alias, None)
    for name in _by_chance(rules, pairs, (left, wanted), min(len(ours), len(theirs))):
        del pairs[name]
    inner = _wrapped(left, wanted, rules, (ours, theirs)) if left and wanted else {}
    parted = frozenset().union(*(_parted(rule, pairs, (ours, theirs)) for rule in rules[1:] if is_nested(rule)))
    return Naming(pairs | inner, tuple(rules), rivals, homes, frozenset(inner), parted)


def _by_chance(
    rules: Iterable[Prefix], pairs: Mapping[str, str], left: tuple[Collection[str], Collection[str]], whole: int
) -> list[str]:
    """Return what a rule that explains less than half of the `whole` leads into a module (or out of one), though what is left has its name elsewhere, too.

    A `norm` at the root beside `merger` is not the norm of the module that holds the `merger` on the other side, if others have one.
    """
    found: list[str] = []
    for old, new in rules:
        if bool(old) == bool(new):
            continue
        placed = [a for a, b in pairs.items() if a.startswith(old) and b == new + a[len(old) :]]
        if 2 * len(placed) > whole:
            continue
        ends = {".".join(name.split(".")[-2:]) for name in left[0 if old else 1]}
        found += [a for a in placed if (rest := a[len(old) :]).count(".") == 1 and rest in ends]
    return found


def is_nested(rule: Prefix) -> bool:
    """Return whether a rule leads from a module into one of its own, or out of it."""
    old, new = rule
    return bool(old and new) and (old.startswith(new) or new.startswith(old))


def _parted(rule: Prefix, pairs: Mapping[str, str], names: tuple[Sequence[str], Sequence[str]]) -> Iterable[str]:
    """Return what a nested rule pairs, if it takes less than half of the module: the rest has its place by other rules."""
    old, new = rule
    placed = [a for a, b in pairs.items() if a.startswith(old) and b == new + a[len(old) :]]
    around = min(rule, key=len)
    whole = sum(name.startswith(around) for name in names[0 if around == old else 1])
    return placed if 2 * len(placed) < whole else ()


def _wrapped(
    left: Mapping[str, Leaf],
    wanted: Mapping[str, Leaf],
    rules: Sequence[Prefix],
    names: tuple[Sequence[str], Sequence[str]],
) -> dict[str, str]:
    """Return what pairs once a module in the middle of one side's names is set aside, after one of the rules."""
    found: dict[str, str] = {}
    for old, new in rules or [("", "")]:
        shown = {new + name[len(old) :]: name for name in left if name.startswith(old) and name not in found}
        taken = set(found.values())
        ours = Side(
            {to: left[name] for to, name in shown.items()}, [new + n[len(old) :] for n in names[0] if n.startswith(old)]
        )
        theirs = Side({name: leaf for name, leaf in wanted.items() if leaf.name not in taken}, names[1])
        found |= {shown[a]: wanted[b].name for a, b in wrapped_pairs(ours, theirs).items()}
    return found


class Counting:
    """From which number each list of either side counts, found out where a rule asks for it."""

    def __init__(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        self._names = sources, targets
        self._firsts: dict[tuple[int, str], int] = {}

    def agrees(self, rule: Prefix) -> bool:
        """Return whether the lists that a rule leads from and to count from the same number.

        Where one counts from zero and the other from one, equal numbers are those of different layers.
        """
        if "" in rule:
            return True
        ours, theirs = ([self._first(side, row) for row in _rows_of(prefix)] for side, prefix in enumerate(rule))
        return ours == theirs

    def _first(self, side: int, row: str) -> int:
        known = self._firsts.get((side, row))
        if known is None:
            ends = {name[len(row) :].partition(".")[0] for name in self._names[side] if name.startswith(row)}
            known = self._firsts[side, row] = min((int(end) for end in ends if end.isdecimal()), default=0)
        return known


def _rows_of(prefix: str) -> list[str]:
    """Return what stands before each number that is a whole segment of a prefix."""
    parts = prefix.split(".")
    return ["".join(f"{part}." for part in parts[:at]) for at, part in enumerate(parts) if part.isdecimal()]


def keeps_numbers(rule: Prefix) -> bool:
    """Return whether a rule leaves the numbers of lists as they are; one that changes them is a guess about order."""
    old, new = (re.findall(r"\d+", prefix) for prefix in rule)
    return old == new or "" in rule


def _apply(rule: Prefix, left: Mapping[str, Leaf], wanted: Mapping[str, Leaf]) -> dict[str, str]:
    """Return what a rule pairs: the first of several names that mean one tensor of the model."""
    old, new = rule
    cut = len(old)
    found = {name: to for name in left if name.startswith(old) and (to := new + name[cut:]) in wanted}
    if len({wanted[to].name for to in found.values()}) == len(found):
        return found
    placed: dict[str, str] = {}
    taken: set[str] = set()
    for name, to in found.items():
        if wanted[to].name not in taken:
            placed[name] = to
            taken.add(wanted[to].name)
    return placed


def _best(
    left: Mapping[str, Leaf], wanted: Mapping[str, Leaf], counting: Counting
) -> tuple[Prefix | None, Mapping[str, str], tuple[str, ...], tuple[str, ...]]:
    """Return the best rule, what it pairs, and others as good: source prefixes that fill the same slots, target prefixes
    under which the same tensors fill other ones (the rule's own first).
    """
    rated: list[tuple[float, Prefix, dict[str, str]]] = []
    for rule in filter(keeps_numbers, _candidates(left, wanted)):
        if not counting.agrees(rule):
            continue
        placed = _apply(rule, left, wanted)
        fits = sum(left[a].shape == wanted[b].shape for a, b in placed.items())
        sound = rule == ("", "") or (
            2 * fits >= len(placed) and _is_told(rule, placed) and _is_whole(rule, placed, left, wanted)
        )
        if placed and sound:
            value = len(placed) + 4 * fits - 0.01 * sum(part.count(".") for part in rule)
            rated.append((value, rule, placed))
        if rule == ("", "") and len(placed) == len(wanted) == len(left):
            break
    if not rated:
        return None, {}, (), ()
    rated.sort(key=lambda item: (-item[0], -akin(item[1]), -likeness(item[1])))
    best = rated[0]
    slots = set(best[2].values())
    rivals = tuple(
        rule[0]
        for value, rule, placed in rated[1:]
        if best[1][0]
        and 2 * len(slots) >= len(wanted)
        and value >= best[0] - 0.5
        and set(placed.values()) == slots
        and not set(placed) & set(best[2])
    )
    same = [
        rule for value, rule, placed in rated
        if rule[0] == best[1][0] and best[1][1] and 2 * len(placed) >= len(left) and value >= best[0] - 0.5
        and placed.keys() == best[2].keys() and akin(rule) >= akin(best[1])
    ]  # fmt: skip
    apart = len({wanted[to].name for _, rule, placed in rated if rule in same for to in placed.values()})
    homes = tuple(new for _, new in same) if apart == len(same) * len(best[2]) and len(same) > 1 else ()
    return best[1], best[2], rivals, homes


def akin(rule: Prefix) -> int:
    """Return how many words the two prefixes of a rule share."""
    ours, theirs = ({word for part in prefix.split(".") for word in words(part)} for prefix in rule)
    return len(ours & theirs)


def likeness(rule: Prefix) -> float:
    """Return how alike the two prefixes of a rule are as texts, 0 to 1."""
    return SequenceMatcher(None, *rule).ratio()


def _is_told(rule: Prefix, placed: Mapping[str, str]) -> bool:
    """Return whether what the rule leaves of the names says something: words of its own, not just numbers and roles."""
    if "" in rule and len(placed) > 3:
        return True
    spoken = sum(any(not part.isdecimal() for part in name[len(rule[0]) :].split(".")[:-1]) for name in placed)
    return 2 * spoken >= len(placed) > 1


def _is_whole(rule: Prefix, placed: Mapping[str, str], left: Mapping[str, Leaf], wanted: Mapping[str, Leaf]) -> bool:
    """Return whether a rule between two subtrees explains most of both; half of one may belong elsewhere."""
    if "" in rule:
        return True
    sizes = (sum(name.startswith(rule[0]) for name in left), sum(name.startswith(rule[1]) for name in wanted))
    return 2 * len(placed) >= max(sizes)


def _candidates(left: Mapping[str, Leaf], wanted: Mapping[str, Leaf]) -> Iterator[Prefix]:
    """Yield the identity, and then the rules that most of a sample of the source's names ask for.

    A name asks for what makes its longest end that some of the model's names have too into one of those; all of the
    model's names count, so that the answer doesn't hang on which ones were drawn.
    """
    yield "", ""
    sample = _spread(list(left), SAMPLE)
    asked = {name[at:] for name in sample for at in _starts(name)}
    ends: dict[str, list[str]] = {}
    for name in wanted:
        for at in _starts(name):
            end = name[at:]
            if end not in asked:
                break  # nor is any longer one: of a name in the sample all ends are asked for
            ends.setdefault(end, []).append(name[:at])
    votes: Counter[Prefix] = Counter()
    for name in sample:
        for at in reversed(list(_starts(name))):
            prefixes = ends.get(name[at:], ())
            if 0 < len(prefixes) <= TOO_COMMON:
                for prefix in prefixes:
                    votes[name[:at], prefix] += 1
                break
    yield from (rule for rule, _ in votes.most_common(12) if rule != ("", ""))


def _starts(name: str) -> Iterator[int]:
    """Yield where the segments of `name` start, the last first, which alone is no evidence; at last the whole name."""
    dot = name.rfind(".", 0, max(name.rfind("."), 0))
    while dot >= 0:
        yield dot + 1
        dot = name.rfind(".", 0, dot)
    yield 0


def _spread(names: list[str], count: int) -> list[str]:
    step = max(1, len(names) // count)
    return names[::step]
