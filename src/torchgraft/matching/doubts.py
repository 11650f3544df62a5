"""What speaks against pairs that fit by themselves, seen from what all of them leave over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
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

Check = Callable[[Pair, Unit, Unit], str]


class Doubts:
    """What speaks against pairs that fit by themselves, seen from what all of them leave over.

    What no pair can have is not asked of each: most of it is about what stays free, and often nothing does.
    """

    def __init__(self, pairs: Sequence[Pair], units: tuple[Sequence[Unit], Sequence[Unit]], *, unordered: bool) -> None:
        self._units = units
        used = {pair.source for pair in pairs}, {pair.target for pair in pairs}
        left = [[u for at, u in enumerate(side) if at not in paired] for side, paired in zip(units, used, strict=True)]
        self._spare, self._hungry = (_spare_norms(side) for side in left)
        self._rows = tuple(_open_rows(side) for side in left)
        self._sizes = tuple(_row_sizes(side) for side in units) if any(self._rows) else ()
        self._crowded = _norms_of_attentions(*units, unordered=unordered)
        self._lonely = tuple(lonely(*side) for side in zip(used, left, units, strict=True))
        self._torn = torn(pairs, *units)
        self._counted, self._lists = Counted(*units), Lists(*units)
        self._twins, self._rearranged = Twins(left), rearranged(pairs, *units)
        self._behind = behind_another(pairs, *units)
        self._open_ended = undirected([(pair.source, pair.target) for pair in pairs], *units)
        checks: Sequence[tuple[object, Check]] = (
            (self._spare or self._hungry, self._folded),
            (_any_in_other_terms(*units), _in_other_terms),
            (any(self._crowded), self._is_crowded),
            (any(self._rows), self._is_one_of_several),
            (any(self._lonely), self._is_lonely),
            (self._torn, self._is_torn),
            (self._counted, self._is_counted),
            (self._behind, self._is_behind),
            (self._lists, self._leaves_its_list),
            (self._rearranged, self._is_rearranged),
            (self._twins, self._is_untold),
            (self._open_ended, self._is_open_ended),
        )
        self._checks = [check for possible, check in checks if possible]

    def of(self, pair: Pair) -> str:
        """Return what is missing for a pair to be sure, "" if nothing is."""
        source, target = self._units[0][pair.source], self._units[1][pair.target]
        return next((lacking for check in self._checks if (lacking := check(pair, source, target))), "")

    def _folded(self, _: Pair, source: Unit, target: Unit) -> str:
        """A norm may be folded into the layer of one side: there it has a bias that the other side lacks."""
        if "weight" not in source.leaves or "weight" not in target.leaves:
            return ""
        biased = "bias" in source.leaves, "bias" in target.leaves
        if biased == (False, True) and source.parent in self._spare:
            return FOLDED
        return FUSED if biased == (True, False) and target.parent in self._hungry else ""

    def _is_crowded(self, pair: Pair, _: Unit, __: Unit) -> str:
        """Only one side's number says which attention of its block a norm belongs to."""
        either = (pair.source in self._crowded[0]) != (pair.target in self._crowded[1])
        return UNORDERED if either and not pair.named else ""

    def _is_one_of_several(self, pair: Pair, source: Unit, target: Unit) -> str:
        several = _is_one_of_several(source, target, self._rows[1]) or _is_one_of_several(target, source, self._rows[0])
        if not several and not pair.named and pair.block <= 0.5:
            several = _stood_alone((source, target), self._sizes, self._rows)
        return ONE_OF_SEVERAL if several else ""

    def _is_lonely(self, pair: Pair, _: Unit, __: Unit) -> str:
        alone = pair.source in self._lonely[0] or pair.target in self._lonely[1]
        return FREE_ELSEWHERE if alone and not pair.named else ""

    def _is_torn(self, pair: Pair, _: Unit, __: Unit) -> str:
        return TORN if pair.target in self._torn else ""

    def _is_counted(self, _: Pair, source: Unit, target: Unit) -> str:
        return COUNTED if self._counted.differ(source, target) else ""

    def _is_behind(self, pair: Pair, _: Unit, __: Unit) -> str:
        return BESIDE if pair.target in self._behind else ""

    def _leaves_its_list(self, pair: Pair, source: Unit, target: Unit) -> str:
        return OTHER_LIST if not pair.named and self._lists.are_left(source, target) else ""

    def _is_rearranged(self, pair: Pair, source: Unit, target: Unit) -> str:
        settled = pair.named or pair.told_apart
        return REARRANGED if not settled and rows_of(source.path, target.path) in self._rearranged else ""

    def _is_untold(self, pair: Pair, source: Unit, target: Unit) -> str:
        settled = pair.named or pair.name >= SAME
        return TWINS if not settled and self._twins.are_untold(source, target) else ""

    def _is_open_ended(self, pair: Pair, source: Unit, target: Unit) -> str:
        if pair.target not in self._open_ended:
            return ""
        return "" if pair.named and is_one_path(source.path, target.path) else EITHER_WAY


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


def _open_rows(left: Iterable[Unit]) -> set[str]:
    """Return the numbered rows with a member that is left over."""
    return {unit.parent for unit in left if unit.last.isdecimal()}


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


def _any_in_other_terms(*sides: Iterable[Unit]) -> bool:
    """Return whether the name of any tensor says that it holds a function of a value."""
    return any(map(_terms, {leaf.role for units in sides for unit in units for leaf in unit.leaves.values()}))


def _in_other_terms(_: Pair, source: Unit, target: Unit) -> str:
    """One is a tensor whose name says that it holds a function of a value, and the other another, or the value."""
    ours, theirs = ([leaf.role for leaf in unit.leaves.values()] for unit in (source, target))
    return OTHER_TERMS if ours != theirs and _terms(*ours) != _terms(*theirs) else ""


@lru_cache
def _terms(*roles: str) -> frozenset[str]:
    return IN_OTHER_TERMS.intersection(word for role in roles for word in words(role))


def _spare_norms(left: Iterable[Unit]) -> set[str]:
    """Return the parents of norms with statistics that are left over: on the other side they may be folded."""
    return {unit.parent for unit in left if "var" in unit.leaves}
