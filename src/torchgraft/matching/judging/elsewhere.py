"""What becomes of the like of a unit in other blocks: where most of them find no partner, one that does stands alone."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from torchgraft.matching.names.words import place_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torchgraft.matching.parts.units import Unit


def lonely(paired: Iterable[int], units: Sequence[Unit]) -> set[int]:
    """Return the paired units of one side whose like stays free in most blocks of the list in which others are paired.

    An adapter that was added to all layers has nothing in the file, also where one has the shapes of something else.
    """
    used = set(paired)
    blocks = {units[at].block for at in used}
    count: Counter[tuple[str, str, bool]] = Counter()
    for at, unit in enumerate(units):
        if unit.block in blocks:
            count[(*_place(unit), at in used)] += 1
    return {
        at for at in used if units[at].block and count[(*_place(units[at]), False)] > count[(*_place(units[at]), True)]
    }


def _place(unit: Unit) -> tuple[str, str]:
    return place_of(unit.block), unit.tail
