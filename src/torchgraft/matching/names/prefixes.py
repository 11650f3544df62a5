"""Names that agree after one prefix is taken off or put on, as whole segments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from torchgraft.core.match import Leaf
from torchgraft.core.names import DERIVED_ROLES
from torchgraft.core.specs import Shape
from torchgraft.matching.names.naming import IDENTITY, Naming, Prefix
from torchgraft.matching.names.towers import Towers
from torchgraft.matching.names.words import canonical
from torchgraft.matching.names.wrappers import Side, wrapped_pairs

SAMPLE = 400
TOO_COMMON = 16
SEVERAL = 3  # layers: fewer may be those of a head for another task
LIKE = 0.5  # as difflib counts it: from here on two names of parts have most letters in common


def naming_of(sources: Iterable[Leaf], targets: Iterable[Leaf], said: Mapping[str, str] | None = None) -> Naming:
    """Return the fewest prefix rules that explain the most, and what they pair.

    The identity comes first; then the rule that places the most tensors of equal shape, again and again for what is left, as
    long as a rule places at least two. `said` are pairs that hold in any case.
    """
    left = {leaf.name: leaf for leaf in sources}
    wanted = {name: leaf for leaf in targets for name in (leaf.name, *leaf.also)}
    names = list(left), list(wanted)
    counting, towers = Counting(*names), Towers(*map(_parents, names))
    pairs: dict[str, str] = dict(said or {})
    if pairs:
        placed = {*pairs.values()}
        left = {name: leaf for name, leaf in left.items() if name not in pairs}
        wanted = {name: leaf for name, leaf in wanted.items() if leaf.name not in placed}
    rules: list[Prefix] = []
    rivals: tuple[str, ...] = ()
    homes: tuple[str, ...] = ()
    while left and wanted:
        rated = _rated(left, wanted, counting, towers, rules[0] if rules else IDENTITY)
        if not rated:
            break
        best = rated[0]
        rivals = rivals or _rivals(rated, wanted)
        homes = homes if rules else _homes(rated, left, wanted)
        rules.append(best.rule)
        pairs.update([(name, wanted[to].name) for name, to in best.placed.items()])
        if len(best.placed) == len(left):
            left = {}  # nothing is to be looked for in another module
            break
        for name, to in best.placed.items():
            del left[name]
            leaf = wanted[to]
            for alias in (leaf.name, *leaf.also):
                wanted.pop(alias, None)
    for name in _by_chance(rules, pairs, (left, wanted), names):
        del pairs[name]
    if said and IDENTITY not in rules:
        rules.append(IDENTITY)
    inner = _wrapped(left, wanted, rules, names) if left and wanted else {}
    unsure = frozenset().union(*(_unsure(rule, pairs, names) for rule in rules if all(rule)))
    return Naming(pairs | inner, tuple(rules), rivals, homes, frozenset(inner), unsure)


def _by_chance(
    rules: Sequence[Prefix],
    pairs: Mapping[str, str],
    left: tuple[Collection[str], Collection[str]],
    names: tuple[Collection[str], Collection[str]],
) -> list[str]:
    """Return what a rule for less than half of either side leads into a module, or out of one, by chance.

    A `norm` beside `merger` is not the norm of the module that holds the `merger` on the other side, if others have one. Nor
    is a `conv_out` that of a module that was added beside it, if this one has a `conv_in` of its own, too, and the one
    outside has its place. A part of a member of a list may be that of any other: the last words alone don't tell.
    """
    found: list[str] = []
    for rule in rules:
        first = rules[0] if rule != rules[0] and rules[0].covers(rule.old) else IDENTITY
        old = first.applied(rule.old)
        shorter, longer = sorted((old, rule.new), key=len)
        if shorter == longer or not longer.startswith(shorter):
            continue
        placed = [a for a, b in pairs.items() if rule.covers(a) and b == rule.applied(a)]
        if 2 * len(placed) > min(map(len, names)):
            continue
        taken = pairs.keys() if longer == old else {*pairs.values()}
        ends = {_last_words(name) for name in left[0 if longer == old else 1] if name not in taken}
        alone = [a for a in placed if (rest := a[len(rule.old) :]).count(".") == 1 and _last_words(rest) in ends]
        torn = _is_torn_from_member(longer, {longer + name[len(rule.old) :] for name in placed}, names[longer != old])
        found += placed if torn or _is_of_others(rule, placed, pairs, names) else alone
    return found


def _is_torn_from_member(prefix: str, placed: Container[str], names: Iterable[str]) -> bool:
    """Return whether a prefix leads into a member of a list that has other layers than those `placed`: `layers.3.mixer.`."""
    numbers = [at for at, part in enumerate(prefix.split(".")) if part.isdecimal()]
    member = "".join(f"{part}." for part in prefix.split(".")[: numbers[-1] + 1]) if numbers else ""
    return bool(member) and any(name.startswith(member) and name not in placed for name in names)


def _last_words(name: str) -> tuple[tuple[str, ...], str]:
    """Return what a tensor's module is called, in words in any order, and its own name: `norm_final` is `final_layernorm`."""
    *_, module, own = ("", *name.split("."))
    return tuple(sorted(canonical(module))), own


def _is_of_others(
    rule: Prefix, placed: Collection[str], pairs: Mapping[str, str], names: tuple[Collection[str], Collection[str]]
) -> bool:
    """Return whether as many names as a rule pairs, or more, would be paired by it, too, and have their place elsewhere."""
    there = set(names[1])
    return sum(a in pairs and a not in placed and to in there for to, a in _applied(rule, names[0])) >= len(placed)


def _unsure(rule: Prefix, pairs: Mapping[str, str], names: tuple[Sequence[str], Sequence[str]]) -> Iterable[str]:
    """Return what a rule pairs, if it gives a module another name, and what it leaves of the names is but numbers.

    Or if it is nested and takes less than half of the module: the rest has its place by other rules.
    """
    placed = [a for a, b in pairs.items() if rule.covers(a) and b == rule.applied(a)]
    if not rule.is_nested:
        return () if _is_told(rule, placed) else placed
    around = min(rule, key=len)
    whole = sum(name.startswith(around) for name in names[0 if around == rule.old else 1])
    return placed if 2 * len(placed) < whole else ()


def _wrapped(
    left: Mapping[str, Leaf],
    wanted: Mapping[str, Leaf],
    rules: Sequence[Prefix],
    names: tuple[Sequence[str], Sequence[str]],
) -> dict[str, str]:
    """Return what pairs once a module in the middle of one side's names is set aside, after one of the rules."""
    found: dict[str, str] = {}
    for rule in rules or [IDENTITY]:
        shown = {to: name for to, name in _applied(rule, left) if name not in found}
        taken = set(found.values())
        ours = Side({to: left[name] for to, name in shown.items()}, [to for to, _ in _applied(rule, names[0])])
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


def _applied(rule: Prefix, names: Iterable[str]) -> list[tuple[str, str]]:
    """Return what a rule makes of those names that it covers, each with the name itself."""
    old, new = rule
    return [(new + name[len(old) :], name) for name in names if name.startswith(old)]


def _apply(rule: Prefix, left: Mapping[str, Leaf], wanted: Mapping[str, Leaf]) -> dict[str, str]:
    """Return what a rule pairs: the first of several names that mean one tensor of the model."""
    found = {name: to for to, name in _applied(rule, left) if to in wanted}
    if len({wanted[to].name for to in found.values()}) == len(found):
        return found
    placed: dict[str, str] = {}
    taken: set[str] = set()
    for name, to in found.items():
        if wanted[to].name not in taken:
            placed[name] = to
            taken.add(wanted[to].name)
    return placed


class Rated(NamedTuple):
    """A rule with what it pairs, how much that explains, and how many modules it leaves of the names, all in all."""

    value: int
    kept: int
    rule: Prefix
    placed: Mapping[str, str]

    @property
    def rank(self) -> tuple[float, ...]:
        """What rules are sorted by, the best first: what explains as much comes closer the more of the names it leaves."""
        return -self.value, -self.kept, -self.rule.shared_words, self.rule.depth, -self.rule.likeness


def _parents(names: Iterable[str]) -> Iterator[str]:
    """Yield the paths of modules that hold modules."""
    return (name.rsplit(".", 2)[0] for name in names if name.count(".") > 1)


def _rated(
    left: Mapping[str, Leaf], wanted: Mapping[str, Leaf], counting: Counting, towers: Towers, first: Prefix
) -> list[Rated]:
    """Return the sound rules, the best first; `first` is the one that was found before all others."""
    rated: list[Rated] = []
    for rule in _candidates(left, wanted):
        if not (rule.keeps_numbers and counting.agrees(rule)) or (all(rule) and towers.change(*rule)):
            continue
        placed = _apply(rule, left, wanted)
        fits = {a for a, b in placed.items() if _squeezed(left[a].shape) == _squeezed(wanted[b].shape)}
        sound = rule == IDENTITY or (
            2 * len(fits) >= len(placed)
            and (_is_told(rule, placed) or _is_renamed(rule, left, wanted, first))
            and not _is_of_one_layer(rule, placed, fits)
            and _is_whole(rule, placed, left, wanted)
            and not _leaves_its_own(rule, placed, left, wanted)
        )
        if placed and sound:
            told = [name for name in placed if left[name].role not in DERIVED_ROLES]  # older files lack the others
            kept = sum(name.count(".") for name in told) - len(told) * rule.old.count(".")
            rated.append(Rated(len(told) + 4 * sum(name in fits for name in told), kept, rule, placed))
        if rule == IDENTITY and len(placed) == len(wanted) == len(left):
            break
    return sorted(rated, key=lambda one: one.rank)


def _squeezed(shape: Shape) -> Shape:
    """Return a shape with axes of size one set aside, which say nothing of where a tensor belongs."""
    return shape if 1 not in shape else tuple(size for size in shape if size != 1)


def _rivals(rated: Sequence[Rated], wanted: Mapping[str, Leaf]) -> tuple[str, ...]:
    """Return other prefixes of the file under which as much lies that would fill the same slots as with the best rule."""
    best = rated[0]
    slots = set(best.placed.values())
    if not best.rule.old or 2 * len(slots) < len(wanted):
        return ()
    return tuple(
        one.rule.old
        for one in rated[1:]
        if one.value == best.value
        and one.kept >= best.kept
        and set(one.placed.values()) == slots
        and not set(one.placed) & set(best.placed)
    )


def _homes(rated: Sequence[Rated], left: Mapping[str, Leaf], wanted: Mapping[str, Leaf]) -> tuple[str, ...]:
    """Return the prefixes of the model, the best rule's first, under which the same tensors fill other slots as well."""
    best = rated[0]
    if not best.rule.new or 2 * len(best.placed) < len(left):
        return ()
    same = [
        one
        for one in rated
        if one.rule.old == best.rule.old
        and one.value == best.value
        and one.placed.keys() == best.placed.keys()
        and one.rule.shared_words >= best.rule.shared_words
    ]
    apart = len({wanted[to].name for one in same for to in one.placed.values()})
    return tuple(one.rule.new for one in same) if apart == len(same) * len(best.placed) and len(same) > 1 else ()


def _is_told(rule: Prefix, placed: Collection[str]) -> bool:
    """Return whether what the rule leaves of the names says something: words of its own, not just numbers and roles."""
    if "" in rule and len(placed) > 3:
        return True
    spoken = sum(any(not part.isdecimal() for part in name[len(rule[0]) :].split(".")[:-1]) for name in placed)
    return 2 * spoken >= len(placed) > 1


def _is_renamed(rule: Prefix, left: Mapping[str, Leaf], wanted: Mapping[str, Leaf], first: Prefix) -> bool:
    """Return whether a rule gives a module another name, with the same names, numbers and shapes inside.

    It has several layers, not all of one shape, is where it was, and nothing else that is left of either side is built so.
    """
    if "" in rule:
        return False
    own, other = (prefix[:-1].rpartition(".")[2] for prefix in rule)
    moved = first.applied(rule.old.removesuffix(f"{own}.")) != rule.new.removesuffix(f"{other}.")
    if moved or own.isdecimal() or other.isdecimal():
        return False
    builds = [_build_of(prefix, side) for prefix, side in zip(rule, (left, wanted), strict=True)]
    layers = {tail.rpartition(".")[0]: shape for tail, shape in builds[0].items()}
    if builds[0] != builds[1] or len(layers) < SEVERAL or len({*layers.values()}) == 1:
        return False
    end = next(iter(builds[0]))
    return all(
        name[: -len(end)] == prefix or _build_of(name[: -len(end)], side) != builds[0]
        for prefix, side in zip(rule, (left, wanted), strict=True)
        for name in side
        if name.endswith("." + end)
    )


def _build_of(prefix: str, names: Mapping[str, Leaf]) -> dict[str, Shape]:
    """Return the shapes of what is in a module by the names inside of it."""
    return {name[len(prefix) :]: leaf.shape for name, leaf in names.items() if name.startswith(prefix)}


def _is_of_one_layer(rule: Prefix, placed: Collection[str], fits: Container[str]) -> bool:
    """Return whether a rule between two parts of unlike names pairs but one layer that fits: that is no prefix, but a guess.

    `pooler.dense` of a language model is not `classifier.dense` of one with a head; nor does a norm beside another `dense`,
    of other sizes, make it one.
    """
    unlike = all(rule) and not rule.shared_words and rule.likeness < LIKE
    unfit = {name.rpartition(".")[0] for name in placed if name not in fits}
    return unlike and len({name.rpartition(".")[0] for name in placed} - unfit) < 2


def _is_whole(rule: Prefix, placed: Mapping[str, str], left: Mapping[str, Leaf], wanted: Mapping[str, Leaf]) -> bool:
    """Return whether a rule between two subtrees explains most of both; half of one may belong elsewhere."""
    if "" in rule:
        return True
    sizes = (sum(name.startswith(rule[0]) for name in left), sum(name.startswith(rule[1]) for name in wanted))
    return 2 * len(placed) >= max(sizes)


def _leaves_its_own(
    rule: Prefix, placed: Mapping[str, str], left: Mapping[str, Leaf], wanted: Mapping[str, Leaf]
) -> bool:
    """Return whether a rule between two subtrees leads most tensors away from slots of their very names and shapes.

    Or most into slots for which the file has tensors of their very names and shapes. The copy of a part, `blocks_aux` beside
    `blocks`, has more names of the other side where the part itself was changed.
    """
    if "" in rule:
        return False
    leave = sum(name in wanted and wanted[name].shape == left[name].shape for name in placed)
    oust = sum(to in left and left[to].shape == wanted[to].shape for to in placed.values())
    return 2 * max(leave, oust) > len(placed)


def _candidates(left: Mapping[str, Leaf], wanted: Mapping[str, Leaf]) -> Iterator[Prefix]:
    """Yield the identity, and then the rules that most of a sample of the source's names ask for.

    A name asks for what makes its longest end that some of the model's names have too into one of those; all of the
    model's names count, so that the answer doesn't hang on which ones were drawn.
    """
    yield IDENTITY
    sample = _spread(list(left), SAMPLE)
    asked = {name[at:] for name in sample for at in _starts(name)}
    ends: dict[str, list[str]] = {}
    for name in wanted:
        if name[name.rfind(".", 0, max(name.rfind("."), 0)) + 1 :] not in asked:
            continue  # the same question, of most names asked in vain, without a generator for each
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
                    votes[Prefix(name[:at], prefix)] += 1
                break
    yield from (rule for rule, _ in votes.most_common(12) if rule != IDENTITY)


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
