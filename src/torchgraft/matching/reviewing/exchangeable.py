"""What could change places: subtrees of one build that prefixes lead to, and two names that both sides have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import combinations

from torchgraft.core.match import Leaf
from torchgraft.core.names import above
from torchgraft.core.specs import Shape
from torchgraft.matching.names.lists import list_of
from torchgraft.matching.names.naming import IDENTITY, Naming, Prefix
from torchgraft.matching.reviewing.finished import Finished

EITHER = "the parts {0} and {1} of the file hold tensors of the same names and shapes, and nothing tells which of them this is"
BESIDE = "{0} and {1} {2} hold tensors of the same names and shapes, and no name says which of them this is"
CLOSER = "{0} {1} is called more like {2}, and holds tensors of most of these names and shapes"
CROSSED = "both sides have both names, {0} and {1}, and order or structure would exchange them"
# By so much two prefixes and their homes must be more alike than exchanged, each 0 to 1 as difflib counts it.
TELLING = 0.25


def like_prefixes(finished: Finished) -> dict[str, str]:
    """Return the slots in doubt for which only the choice between two like prefixes speaks."""
    naming, sources = finished.naming, finished.sides[0]
    rules = [rule for rule in naming.prefixes if all(rule)]
    inside = {rule: _inside(rule, sources, naming) for rule in rules} if len(rules) > 1 else {}
    doubts: dict[str, str] = {}
    for one, other in combinations(inside, 2):
        alike = _alike(inside[one], inside[other])
        if alike and not _is_told(one, other, inside):
            text = EITHER.format(one.old.rstrip("."), other.old.rstrip("."))
            doubts |= {rule.old + rest: text for rule in (one, other) for rest in alike}
    return {to: doubts[name] for name, to in _ends(finished, doubts) if naming.pairs.get(name) == to}


def crossed_names(finished: Finished) -> dict[str, str]:
    """Return the slots in doubt that tensors go to crosswise, between two names that both sides have.

    Names that differ in whole numbers alone are left to the rules for lists: those may be counted from either end.
    """
    moved = {m.source.name: m for m in finished.matching.matches if m.source.name != m.target.name}
    return {
        m.target.name: CROSSED.format(*sorted((m.source.owner, m.target.owner)))
        for name, m in moved.items()
        if (back := moved.get(m.target.name)) and back.target.name == name and not _only_numbers_differ(name, m.target.name)
    }  # fmt: skip


def beside_unruled_twins(finished: Finished) -> dict[str, str]:
    """Return the slots in doubt that a prefix rule fills, where a twin that no rule leads to would do as well.

    `actor.rnn` to `policy.rnn`, while `critic.rnn` of the file has no rule, or `value.rnn` of the model. A closer name makes
    a twin of what lacks some of the tensors, too: `student` to `net.teacher`, because the file's `teacher` has no head. Nor
    does a wrapper that is taken off say by its name that it is this one, or the length of a list: `layers` to `layers_a`,
    while nothing fills the shorter `layers_b`, may have got a layer.
    """
    sides, naming = finished.sides, finished.naming
    ruled = naming.pairs.keys(), set(naming.pairs.values())
    shapes = [{leaf.name: leaf.shape for leaf in side} for side in sides]
    unfilled = {leaf.name: leaf.shape for leaf in finished.matching.free_targets}
    doubts: dict[str, str] = {}
    told = bool(naming.rivals or naming.homes)  # the caller is told that other wrappers fit as well
    for rule in naming.prefixes:
        inside = {} if rule == IDENTITY or (told and "" in rule) else _inside(rule, sides[0], naming)
        for side, where in ((0, "of the file"), (1, "of the model")) if inside else ():
            if not rule[side]:
                continue
            free = {name: shape for name, shape in shapes[side].items() if name not in ruled[side]}
            twins = _twins(inside, free)
            if side == 1:
                twins |= dict.fromkeys(_shorter_twins(inside, unfilled), True)
            for twin, is_whole in twins.items():
                other = Prefix(twin, rule.new) if side == 0 else Prefix(rule.old, twin)
                own, beside, home = (name.rstrip(".") for name in (rule[side], twin, rule[1 - side]))
                if is_whole and not _is_closer(rule, other):
                    doubts |= dict.fromkeys([rule.old + rest for rest in inside], BESIDE.format(own, beside, where))
                elif not is_whole and _is_closer(other, rule):
                    doubts |= dict.fromkeys([rule.old + rest for rest in inside], CLOSER.format(beside, where, home))
    return {to: doubts[name] for name, to in _ends(finished, doubts)}


def _ends(finished: Finished, names: Container[str]) -> Iterator[tuple[str, str]]:
    """Yield the names of both ends of the pairs whose tensor of the file is among some."""
    return ((m.source.name, m.target.name) for m in finished.matching.matches if names and m.source.name in names)


def _only_numbers_differ(one: str, other: str) -> bool:
    pairs = list(zip(one.split("."), other.split("."), strict=False))
    return all(a == b or (a.isdecimal() and b.isdecimal()) for a, b in pairs)


def _twins(inside: Mapping[str, Shape], free: Mapping[str, Shape]) -> dict[str, bool]:
    """Return the prefixes under which most of the names are free, too, in the same shapes; and whether all are."""
    found = _counts_of(inside, free)
    return {twin: count == len(inside) for twin, count in found.items() if 2 * count > len(inside)}


def _shorter_twins(inside: Mapping[str, Shape], free: Mapping[str, Shape]) -> list[str]:
    """Return the prefixes under which all names of `inside` are free that lie in the first members of its lists.

    What lies there has like lists, maybe shorter ones. There are none where the members of a list are not all alike.
    """
    first = {name: shape for name, shape in inside.items() if _first_member(name) == name}
    if len(first) == len(inside) or any(first.get(_first_member(name)) != shape for name, shape in inside.items()):
        return []
    return [twin for twin, count in _counts_of(first, free).items() if count == len(first)]


def _first_member(name: str) -> str:
    """Return what a name is in the first members of all lists: `layers.3.fc` -> `layers.0.fc`."""
    return ".".join("0" if part.isdecimal() else part for part in name.split("."))


def _counts_of(inside: Mapping[str, Shape], free: Mapping[str, Shape]) -> Counter[str]:
    """Return the prefixes under which names are free, each with how many of them."""
    found: Counter[str] = Counter()
    for name, shape in free.items():
        for around in above(name):
            if inside.get(name[len(around) + 1 :]) == shape:
                found[f"{around}."] += 1
    return found


def _is_closer(rule: Prefix, other: Prefix) -> bool:
    """Return whether names say that it is this rule: the other would change numbers, share fewer words, or be less alike."""
    if _counts_otherwise(other) or rule.shared_words != other.shared_words:
        return _counts_otherwise(other) or rule.shared_words > other.shared_words
    if rule.shared_meanings > other.shared_meanings:
        return True
    return rule.likeness - other.likeness > TELLING


def _counts_otherwise(rule: Prefix) -> bool:
    """Return whether a rule changes the number of a member of a list: both names have one. `branch1` for `mlp` is another name."""
    ours, theirs = (prefix.split(".") for prefix in rule)
    changed = set(ours) ^ set(theirs)
    numbered = [any(char.isdigit() for part in side if part in changed for char in part) for side in (ours, theirs)]
    return not rule.keeps_numbers and all(numbered)


def _inside(rule: Prefix, sources: Sequence[Leaf], naming: Naming) -> Mapping[str, Shape]:
    """Return the names below the source's prefix that the rule pairs, with their shapes."""
    return {
        leaf.name.removeprefix(rule.old): leaf.shape
        for leaf in sources
        if rule.covers(leaf.name) and naming.pairs.get(leaf.name) == rule.applied(leaf.name)
    }


def _alike(ours: Mapping[str, Shape], theirs: Mapping[str, Shape]) -> list[str]:
    """Return the names that both have in equal shapes, if that is most of either: one tower may have a table more."""
    alike = [name for name, shape in ours.items() if theirs.get(name) == shape]
    return alike if 2 * len(alike) > max(len(ours), len(theirs)) else []


def _is_told(one: Prefix, other: Prefix, inside: Mapping[Prefix, Mapping[str, Shape]]) -> bool:
    """Return whether the prefixes say it themselves.

    Exchanged they would change numbers that count from one end, share fewer words, or be less alike.

    Of lists that may be counted from either end, members of other shapes tell the end.
    """
    exchanged = Prefix(one.old, other.new), Prefix(other.old, one.new)
    if not all(rule.keeps_numbers for rule in exchanged):
        from torchgraft.matching.solving.reversed import leave_end_open  # numpy: only where it is needed

        row = [list_of(prefix.rstrip(".")) for prefix in one]
        if row != [list_of(prefix.rstrip(".")) for prefix in other] or not leave_end_open(row[0], row[1]):
            return True
        return any(
            held != inside[one]
            for rule, held in inside.items()
            if [list_of(prefix.rstrip(".")) for prefix in rule] == row
        )
    if one.shared_words + other.shared_words > sum(rule.shared_words for rule in exchanged):
        return True
    as_they_are, crossed = (sum(rule.likeness for rule in rules) / 2 for rules in ((one, other), exchanged))
    return as_they_are - crossed > TELLING
