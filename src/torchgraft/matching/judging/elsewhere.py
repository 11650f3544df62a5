"""What the other members of a list say against a pair that fits by itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.words import place_in_list, place_of, stem
from torchgraft.matching.parts.units import Unit

Row = tuple[str, str]


def lonely(paired: Iterable[int], units: Sequence[Unit]) -> set[int]:
    """Return the paired units of one side whose like stays free in most blocks of the list in which others are paired.

    An adapter that was added to all layers has nothing in the file, also where one has the shapes of something else.
    """
    used = set(paired)
    blocks = {units[at].block for at in used}
    free = Counter([_place(unit) for at, unit in enumerate(units) if at not in used and unit.block in blocks])
    if not free:
        return set()
    places = {at: _place(units[at]) for at in used if units[at].block}
    fed = Counter(places.values())
    return {at for at, place in places.items() if free[place] > fed[place]}


def _place(unit: Unit) -> tuple[str, str]:
    return place_of(unit.block), unit.tail


def torn(pairs: Iterable[Pair], sources: Sequence[Unit], targets: Sequence[Unit]) -> set[int]:
    """Return the targets in blocks of which parts go to, or come from, the same parts of several members of one list.

    Where shapes send a convolution to the block beside, the norms that fit in both by name belong there, too.
    """
    goes: dict[tuple[str, Row, int], set[str]] = defaultdict(set)
    held: dict[tuple[str, Row, int], set[int]] = defaultdict(set)
    for pair in pairs:
        source, target = sources[pair.source], targets[pair.target]
        if source.block and target.block and source.tail == target.tail:
            for side, (block, other) in enumerate(((source.block, target.block), (target.block, source.block))):
                ends = block, _row(other), side
                goes[ends].add(other)
                held[ends].add(pair.target)
    return {at for ends, members in goes.items() if len(members) > 1 for at in held[ends]}


def _row(block: str) -> Row:
    parent, _, last = block.rpartition(".")
    return parent, stem(last) or ""


class Counted:
    """Lists of one name that the sides count from different numbers and that differ in length: numbers say nothing."""

    def __init__(self, sources: Sequence[Unit], targets: Sequence[Unit]) -> None:
        self._rows = [
            {row: (min(held), len(held)) for row, held in _members(units).items()} for units in (sources, targets)
        ]

    def differ(self, source: Unit, target: Unit) -> bool:
        """Return whether the blocks of two units are members of such lists."""
        if not (source.block and target.block):
            return False
        ours, theirs = _row(source.block), _row(target.block)
        if not is_one_path(".".join(ours), ".".join(theirs)):
            return False
        first, second = self._rows[0][ours], self._rows[1][theirs]
        return first[0] != second[0] and first[1] != second[1]


def _members(units: Sequence[Unit]) -> dict[Row, set[int]]:
    """Return the numbers of the members of each list of blocks."""
    found: dict[Row, set[int]] = defaultdict(set)
    for block in {block for unit in units for block in unit.blocks}:
        row = _row(block)
        found[row].add(place_in_list(block.rpartition(".")[2][len(row[1]) :]))
    return found


def is_one_path(ours: str, theirs: str) -> bool:
    """Return whether two paths are one but for what stands before it."""
    return f".{ours}".endswith(f".{theirs}") or f".{theirs}".endswith(f".{ours}")
