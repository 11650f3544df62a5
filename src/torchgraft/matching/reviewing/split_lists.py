"""Lists of one side that are two of the other: what comes first on one side has to come first on the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations

from torchgraft.core.match import Leaf, Match
from torchgraft.core.names import above
from torchgraft.core.plan import Certainty
from torchgraft.core.specs import Shape
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.reviewing.finished import Finished

TURNED = "{0} would be {1} and {2}, of which the first one here would come last there"

# The paths of two lists, and the number of a member in either.
Lists = tuple[str, str]
Numbers = tuple[int, int]
Met = Mapping[Lists, Mapping[Numbers, Sequence[str]]]
Build = frozenset[tuple[str, Shape]]


def split_out_of_order(finished: Finished) -> dict[str, str]:
    """Return the slots in doubt of lists that would be one on one side and two on the other, in another order.

    `blocks.2` to `early.0`, with `blocks.0` and `blocks.1` in `late`: that list is as long as these are, and called as little
    as they are. Lists of members of other builds may lie in any order.
    """
    met = _met(finished.matching.matches)
    doubts: dict[str, str] = {}
    for side in (0, 1):
        halves: dict[str, list[str]] = defaultdict(list)
        for lists in met:
            halves[lists[side]].append(lists[1 - side])
        parted = {whole: parts for whole, parts in halves.items() if len({*map(place_of, parts)}) > 1}
        order, builds = _placed(finished.sides[1 - side]) if parted else ({}, {})
        for whole, parts in parted.items():
            for pair in combinations(sorted(parts, key=order.__getitem__), 2):
                keys = [(whole, part) if side == 0 else (part, whole) for part in pair]
                first, second = ({numbers[side] for numbers in met[lists]} for lists in keys)
                if min(first) > max(second) and builds[pair[0]] & builds[pair[1]]:
                    text = TURNED.format(whole, *pair)
                    doubts |= {name: text for lists in keys for names in met[lists].values() for name in names}
    return {
        m.target.name: doubts[m.target.name]
        for m in finished.matching.matches
        if _is_sure(m) and m.target.name in doubts
    }


def _is_sure(found: Match) -> bool:
    return found.certainty is not Certainty.DOUBT


def _met(matches: Iterable[Match]) -> Met:
    """Return the slots that members of lists feed, by both lists and both numbers."""
    met: dict[Lists, dict[Numbers, list[str]]] = defaultdict(lambda: defaultdict(list))
    for m in matches:
        ours, theirs = ([*_members(leaf.owner)] for leaf in (m.source, m.target))
        for (one, number), (other, there) in zip(ours, theirs, strict=False) if len(ours) == len(theirs) else ():
            met[one, other][number, there].append(m.target.name)
    return met


def _members(path: str) -> Iterator[tuple[str, int]]:
    """Yield the lists around a module, the innermost first, each with the number of its member."""
    for around in above(path):
        row, _, number = around.rpartition(".")
        if number.isdecimal():
            yield row, int(number)


def _placed(leaves: Sequence[Leaf]) -> tuple[Mapping[str, int], Mapping[str, set[Build]]]:
    """Return where each list of a side begins, and of which tensors its members are built."""
    order: dict[str, int] = {}
    inside: dict[tuple[str, int], set[tuple[str, Shape]]] = defaultdict(set)
    for at, leaf in enumerate(sorted(leaves, key=lambda leaf: leaf.order)):
        for row, number in _members(leaf.owner):
            order.setdefault(row, at)
            inside[row, number].add((leaf.name[len(f"{row}.{number}.") :], leaf.shape))
    builds: dict[str, set[Build]] = defaultdict(set)
    for (row, _), held in inside.items():
        builds[row].add(frozenset(held))
    return order, builds
