"""Rows of layers that are longer on one side: a layer was put in or taken out, and its number is now another's.

In such a row a number means the same layer only as far as both sides agree from the start, or, counted from the end, from
the end. Where both ways lead to a layer of the same shapes, nothing but the values tells which of them it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING

from torchgraft.matching.evidence.trust import outermost_list
from torchgraft.matching.parts.units import Unit

if TYPE_CHECKING:
    import numpy as np

# Places of units, in order: a layer with the norm that belongs to it, or a block of layers.
Group = tuple[int, ...]
Row = list[Group]
# Where in its group a unit is: which of its members it lies in, and the path within that.
Inside = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Fit:
    """Which units of two rows may stand for each other: `fits` by their shapes; `inside` says where each is in its group."""

    fits: np.ndarray
    inside: tuple[Mapping[int, Inside], Mapping[int, Inside]]

    def turned(self) -> Fit:
        """Return the same with both sides exchanged."""
        return Fit(self.fits.T, self.inside[::-1])

    def pairs(self, ours: Group, theirs: Group) -> list[tuple[int, int]]:
        """Return the units of two groups that would stand for each other, empty where the groups are of different builds.

        Most have the same name within; then some may be left over (a layer that was put into every block), and the order,
        which is lost in a file that is sorted by name, means nothing. Else both have as many, in order.
        """
        named = {self.inside[1][j]: j for j in theirs}
        same = [(i, named[self.inside[0][i]]) for i in ours if self.inside[0][i] in named]
        if 2 * len(same) <= max(len(ours), len(theirs)):
            same = list(zip(ours, theirs, strict=False)) if len(ours) == len(theirs) else []
        return same

    def agree(self, ours: Group, theirs: Group) -> bool:
        """Return whether two groups are of one build, and their units of the same shapes."""
        pairs = self.pairs(ours, theirs)
        return bool(pairs) and all(self.fits[i, j] for i, j in pairs)


@dataclass(frozen=True, slots=True)
class Shifts:
    """What rows of unequal length say.

    `misled` are pairs for which an equal number says nothing, `partners` those at the same place from the start or
    the end; `contested` are the units of either side that have one of each kind.
    """

    misled: frozenset[tuple[int, int]]
    partners: frozenset[tuple[int, int]]
    contested: tuple[frozenset[int], frozenset[int]]


def find_shifts(
    named: Mapping[int, int],
    pinned: Mapping[int, int],
    sources: Sequence[Unit],
    targets: Sequence[Unit],
    fits: np.ndarray,
) -> Shifts:
    """Return what the rows say in which names may not decide: `pinned` are the pairs among `named` that may."""
    misled: set[tuple[int, int]] = set()
    partners: set[tuple[int, int]] = set()
    contested: tuple[set[int], set[int]] = (set(), set())
    ours, theirs = _rows(sources), _rows(targets)
    fit = Fit(fits, (_inside(ours, sources), _inside(theirs, targets)))
    for a, b in _counterparts(ours, theirs, named, fit):
        if len(a) == len(b):
            continue
        to = dict.fromkeys(j for group in b for j in group)
        misled |= {(i, j) for group in a for i in group for j in to if pinned.get(i) != j}
        for group, other, twice in _ends(a, b, fit):
            if twice:
                contested[0].update(group)
                contested[1].update(other)
            partners |= set(fit.pairs(group, other))
        placed = {j for _, j in partners}
        contested[1].update(j for j in _misplaced(a, b, named, fit) if j not in placed)
    return Shifts(frozenset(misled - partners), frozenset(partners), (frozenset(contested[0]), frozenset(contested[1])))


def _misplaced(ours: Row, theirs: Row, named: Mapping[int, int], fit: Fit) -> Iterator[int]:
    """Yield the targets of groups to which names lead from groups of other shapes: a norm stands where its layer does not."""
    group_of = {j: group for group in theirs for j in group}
    for group in ours:
        other = group_of.get(named.get(group[0], -1), ())
        if len(group) == len(other) > 1 and not fit.agree(group, other):
            yield from other


def _counterparts(
    ours: Mapping[str, Row], theirs: Mapping[str, Row], named: Mapping[int, int], fit: Fit
) -> Iterator[tuple[Row, Row]]:
    """Yield the rows that stand for each other: by the names of their units, else those left that agree the most."""
    place = {j: path for path, row in theirs.items() for group in row for j in group}
    left, free = dict(ours), dict(theirs)
    for path, row in ours.items():
        met = Counter(place[named[i]] for group in row for i in group if named.get(i) in place)
        other = met.most_common(1)[0][0] if met else ""
        if other in free:
            yield left.pop(path), free.pop(other)
    agree = {(a, b): _agreement(left[a], free[b], fit) for a in left for b in free}
    for a, b in sorted(agree, key=lambda pair: -agree[pair]):
        if a in left and b in free and 2 * agree[a, b] >= min(len(left[a]), len(free[b])):
            yield left.pop(a), free.pop(b)


def _agreement(ours: Row, theirs: Row, fit: Fit) -> int:
    first, last = _runs(ours, theirs, fit)
    if not (first or last):  # both ends may be for other data
        first, last = _runs(ours[1:], theirs[1:], fit)
    return min(first + last, len(ours), len(theirs))


def _ends(ours: Row, theirs: Row, fit: Fit) -> Iterator[tuple[Group, Group, bool]]:
    """Yield groups that stand at the same place from the start or the end, and whether one of them does so twice."""
    if len(ours) > len(theirs):
        yield from ((group, other, twice) for other, group, twice in _ends(theirs, ours, fit.turned()))
        return
    at_start, at_end = _places(ours, theirs, fit)
    twice_ours, twice_theirs = at_start.keys() & at_end.keys(), set(at_start.values()) & set(at_end.values())
    earliest = _earliest(ours, theirs, fit)
    for pairs in (at_start, at_end):
        for k, n in pairs.items():
            twice = k in twice_ours or n in twice_theirs or earliest.get(k, n) < n
            if pairs is at_start or (k not in twice_ours and n not in twice_theirs):
                yield ours[k], theirs[n], twice


def _earliest(ours: Row, theirs: Row, fit: Fit) -> dict[int, int]:
    """Return the first places that members of the shorter row can have in the longer one, in order, where they have one."""
    places: dict[int, int] = {}
    behind, more = 0, len(theirs) - len(ours)
    for k, group in enumerate(ours):
        place = next((n for n in range(max(behind, k), k + more + 1) if fit.agree(group, theirs[n])), None)
        if place is not None:
            places[k], behind = place, place + 1
    return places


def _only_places(ours: Row, theirs: Row, fit: Fit) -> dict[int, int]:
    """Return the places of the shorter row's members in the longer one where all have one, in order, and no other.

    The longer row may have an embedding before its blocks, and a head behind them.
    """
    more, size = len(theirs) - len(ours), len(ours)
    early, late = _earliest(ours, theirs, fit), _earliest(ours[::-1], theirs[::-1], fit)
    if len(early) < size or {k: size - 1 + more - late.get(size - 1 - k, -1) for k in early} != early:
        return {}
    return early


def _places(ours: Row, theirs: Row, fit: Fit) -> tuple[dict[int, int], dict[int, int]]:
    """Return which members of the longer row those of the shorter one are, counted from the start and from the end."""
    first, last = _runs(ours, theirs, fit)
    if not (first or last) and (only := _only_places(ours, theirs, fit)):
        return only, {}
    if first or last or len(ours) == 1:
        return _between(ours, theirs, fit)
    starts, ends = _between(ours[1:], theirs[1:], fit)  # both ends are for other data
    return {0: 0} | {k + 1: n + 1 for k, n in starts.items()}, {k + 1: n + 1 for k, n in ends.items()}


def _between(ours: Row, theirs: Row, fit: Fit) -> tuple[dict[int, int], dict[int, int]]:
    """Return the same for rows of which one end agrees, or neither.

    Where members of other shapes end the runs (a head or first layer for other data), what was put in lies before or behind
    them: next to members of its own shapes it may be any of these.
    """
    more = len(theirs) - len(ours)
    first, last = _runs(ours, theirs, fit)
    behind = len(ours) - last
    at_start = {k: k for k in range(first)}
    if first == len(ours):  # the longer row just goes on
        return at_start, {}
    at_end = {k: k + more for k in range(behind, len(ours))}
    if first >= behind or not (first or last):
        return at_start, at_end
    back, forth = _runs(ours[:first], theirs[: first + more], fit)[1], _runs(ours[behind:], theirs[behind:], fit)[0]
    others = range(first, behind)
    to_start, to_end = bool(forth) or not first, bool(back) or not last
    at_end |= {k: k + more for k in (*range(first - back, first), *(others if to_end and not to_start else ()))}
    at_start |= {k: k for k in (*range(behind, behind + forth), *(others if to_start and not to_end else ()))}
    return at_start, at_end


def _runs(ours: Row, theirs: Row, fit: Fit) -> tuple[int, int]:
    """Return how many groups agree from the start, and from the end, before the first that doesn't."""

    def agree(pair: tuple[Group, Group]) -> bool:
        return fit.agree(*pair)

    start, end = zip(ours, theirs, strict=False), zip(reversed(ours), reversed(theirs), strict=False)
    return sum(1 for _ in takewhile(agree, start)), sum(1 for _ in takewhile(agree, end))


def _rows(units: Sequence[Unit]) -> dict[str, Row]:
    """Return the members of each row in order of their numbers, each norm with its layer.

    A norm goes with the layer before it; in a row that starts with a norm, with the layer behind it.
    """
    members: dict[str, dict[int, list[int]]] = {}
    for at, unit in enumerate(units):
        row = outermost_list(unit)
        if row:
            number = int(unit.path.removeprefix(row).partition(".")[0])
            members.setdefault(row, {}).setdefault(number, []).append(at)
    return {row: _groups(units, [tuple(found[n]) for n in sorted(found)]) for row, found in members.items()}


def _inside(rows: Mapping[str, Row], units: Sequence[Unit]) -> dict[int, Inside]:
    """Return for each unit which member of its group it is in, and its path there."""
    found: dict[int, Inside] = {}
    for row, groups in rows.items():
        for group in groups:
            places = [units[at].path.removeprefix(row).partition(".")[::2] for at in group]
            members = {number: n for n, number in enumerate(dict.fromkeys(number for number, _ in places))}
            found |= {at: (members[number], path) for at, (number, path) in zip(group, places, strict=True)}
    return found


def _groups(units: Sequence[Unit], members: Sequence[Group]) -> Row:
    norms = [_is_norm(units, member) for member in members]
    groups: list[Group] = []
    for at, member in enumerate(members):
        if at == 0 or not (norms[at - 1] if norms[0] else norms[at]):
            groups.append(member)
        else:
            groups[-1] += member
    return groups


def _is_norm(units: Sequence[Unit], member: Group) -> bool:
    """Return whether a member is a single unit of vectors: a norm, or what scales channels."""
    return len(member) == 1 and all(len(leaf.shape) < 2 for leaf in units[member[0]].leaves.values())
