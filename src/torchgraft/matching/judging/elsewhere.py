"""What the other members of a list say against a pair that fits by itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.judging.lists import Row, row_of
from torchgraft.matching.names.words import place_of
from torchgraft.matching.parts.units import Unit


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
                ends = block, row_of(other), side
                goes[ends].add(other)
                held[ends].add(pair.target)
    return {at for ends, members in goes.items() if len(members) > 1 for at in held[ends]}
