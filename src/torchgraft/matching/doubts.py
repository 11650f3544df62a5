"""What speaks against pairs that fit by themselves, seen from what all of them leave over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from functools import lru_cache

from torchgraft.core.names import words
from torchgraft.matching.judging.certainty import (
    BESIDE,
    COUNTED,
    EITHER_WAY,
    FOLDED,
    FREE_ELSEWHERE,
    FUSED,
    ONE_OF_SEVERAL,
    OTHER_LIST,
    OTHER_TERMS,
    REARRANGED,
    SAME,
    TORN,
    TWINS,
    UNORDERED,
)
from torchgraft.matching.judging.elsewhere import lonely, torn
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.judging.lists import Counted, Lists, behind_another, is_one_path, rearranged, rows_of
from torchgraft.matching.judging.twins import Twins
from torchgraft.matching.parts.attentions import disordered, is_numbered_norm, with_attentions
from torchgraft.matching.parts.units import BARE, Unit
from torchgraft.matching.solving.reversed import undirected
from torchgraft.matching.tables.dialect import IN_OTHER_TERMS


class Doubts:
    """What speaks against pairs that fit by themselves, seen from what all of them leave over."""

    def __init__(self, pairs: Sequence[Pair], units: tuple[Sequence[Unit], Sequence[Unit]], *, unordered: bool) -> None:
        self._units = units
        self._spare, self._hungry = (_spare_norms(used, side) for used, side in zip(_ends(pairs), units, strict=True))
        self._rows = tuple(_open_rows(used, side) for used, side in zip(_ends(pairs), units, strict=True))
        self._sizes = tuple(_row_sizes(side) for side in units)
        self._crowded = _norms_of_attentions(*units, unordered=unordered)
        self._lonely = tuple(lonely(used, side) for used, side in zip(_ends(pairs), units, strict=True))
        self._torn = torn(pairs, *units)
        self._counted, self._lists = Counted(*units), Lists(*units)
        self._twins, self._rearranged = Twins(pairs, *units), rearranged(pairs, *units)
        self._behind = behind_another(pairs, *units)
        self._open_ended = undirected([(pair.source, pair.target) for pair in pairs], *units)

    def of(self, pair: Pair) -> str:
        """Return what is missing for a pair to be sure, "" if nothing is."""
        source, target = self._units[0][pair.source], self._units[1][pair.target]
        lacking = _folded(source, target, self._spare, self._hungry)
        if lacking or _in_other_terms(source, target):
            return lacking or OTHER_TERMS
        if _is_crowded(pair, self._crowded):
            return UNORDERED
        if _is_one_of_several(source, target, self._rows[1]) or _is_one_of_several(target, source, self._rows[0]):
            return ONE_OF_SEVERAL
        if not pair.named and pair.block <= 0.5 and _stood_alone((source, target), self._sizes, self._rows):
            return ONE_OF_SEVERAL
        if not pair.named and (pair.source in self._lonely[0] or pair.target in self._lonely[1]):
            return FREE_ELSEWHERE
        if pair.target in self._torn:
            return TORN
        if self._counted.differ(source, target):
            return COUNTED
        if pair.target in self._behind:
            return BESIDE
        if pair.named:
            open_ended = pair.target in self._open_ended and not is_one_path(source.path, target.path)
            return EITHER_WAY if open_ended else ""
        return self._of_unnamed(pair, source, target)

    def _of_unnamed(self, pair: Pair, source: Unit, target: Unit) -> str:
        if self._lists.are_left(source, target):
            return OTHER_LIST
        if not pair.told_apart and rows_of(source.path, target.path) in self._rearranged:
            return REARRANGED
        if pair.name < SAME and self._twins.are_untold(pair):
            return TWINS
        return EITHER_WAY if pair.target in self._open_ended else ""


def _ends(pairs: Sequence[Pair]) -> tuple[list[int], list[int]]:
    """Return the units of either side that have a partner."""
    return [pair.source for pair in pairs], [pair.target for pair in pairs]


def _norms_of_attentions(
    sources: Sequence[Unit], targets: Sequence[Unit], *, unordered: bool
) -> tuple[set[int], set[int]]:
    """Return the numbered norms of either side in blocks with several attentions, where order doesn't say whose they are."""
    found: list[set[int]] = []
    for units in (sources, targets):
        blocks = with_attentions({unit.parent for unit in units})
        if blocks and not unordered:
            blocks = disordered(blocks, [unit.path for unit in units])
        norms = ((n, u) for n, u in enumerate(units) if u.parent in blocks) if blocks else ()
        found.append({n for n, unit in norms if is_numbered_norm(unit.path)})
    return found[0], found[1]


def _is_crowded(pair: Pair, crowded: tuple[set[int], set[int]]) -> bool:
    """Return whether only one side's number says which attention of its block a norm belongs to."""
    return not pair.named and (pair.source in crowded[0]) != (pair.target in crowded[1])


def _open_rows(paired: Iterable[int], units: Sequence[Unit]) -> set[str]:
    """Return the numbered rows with a member that found no partner."""
    used = set(paired)
    return {unit.parent for at, unit in enumerate(units) if at not in used and unit.last.isdecimal()}


def _is_one_of_several(one: Unit, other: Unit, rows: Collection[str]) -> bool:
    """Return whether the other is a member of an open row that is called like the one."""
    if not rows:
        return False
    row = other.parent
    if not other.last.isdecimal() or row not in rows:
        return False
    paths = (
        {one.path}
        if BARE in one.leaves
        else {one.path, *(leaf.keys[0].rpartition(".")[0] for leaf in one.leaves.values())}
    )
    return any(is_one_path(row, path) for path in paths)


def _row_sizes(units: Sequence[Unit]) -> Counter[str]:
    """Return how many units are members of each row."""
    return Counter([unit.parent for unit in units])


def _stood_alone(pair: tuple[Unit, Unit], sizes: Sequence[Mapping[str, int]], rows: Sequence[Container[str]]) -> bool:
    """Return whether two are members of a row of one name, of which one side has this one alone and the other left some open."""
    ours, theirs = (unit.parent for unit in pair)
    if not (all(unit.last.isdecimal() for unit in pair) and is_one_path(ours, theirs)):
        return False
    return (sizes[0][ours] == 1 and theirs in rows[1]) or (sizes[1][theirs] == 1 and ours in rows[0])


def _in_other_terms(source: Unit, target: Unit) -> bool:
    """Return whether one is a tensor whose name says that it holds a function of a value, and the other another, or the value."""
    ours, theirs = ([leaf.role for leaf in unit.leaves.values()] for unit in (source, target))
    return ours != theirs and _terms(*ours) != _terms(*theirs)


@lru_cache
def _terms(*roles: str) -> frozenset[str]:
    return IN_OTHER_TERMS.intersection(word for role in roles for word in words(role))


def _spare_norms(paired: Iterable[int], units: Sequence[Unit]) -> set[str]:
    """Return the parents of norms with statistics that found no partner: on the other side they may be folded."""
    used = set(paired)
    spare = (u for i, u in enumerate(units) if i not in used and "var" in u.leaves)
    return {unit.parent for unit in spare}


def _folded(source: Unit, target: Unit, spare: set[str], hungry: set[str]) -> str:
    """Return why a norm may be folded into the layer of one side: there it has a bias that the other side lacks."""
    if "weight" not in source.leaves or "weight" not in target.leaves:
        return ""
    biased = ["bias" in unit.leaves for unit in (source, target)]
    if biased == [False, True] and source.parent in spare:
        return FOLDED
    return FUSED if biased == [True, False] and target.parent in hungry else ""
