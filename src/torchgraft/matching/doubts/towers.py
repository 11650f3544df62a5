"""The rule of doubt that looks at the large parts of a network: which tower is which."""

from __future__ import annotations

from collections.abc import Iterator

from torchgraft.matching.doubts.found import Found
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.towers import Towers

OTHER_TOWER = "by name it belongs to another part of the network"


def into_other_towers(found: Found) -> Iterator[Pair]:
    """Yield units that would go from one of two parts that lie side by side into the other, where both sides have both.

    What the file has in `student.blocks` is for `student.layers`, even where it has as many blocks as `teacher.layers`. The same
    holds of an encoder that would become a decoder, whatever else there is.
    """
    towers = Towers(*([unit.parent for unit in side] for side in found.sides))
    for pair, source, target in found.with_units():
        if source.parent != target.parent and towers.change(source.parent, target.parent):
            yield pair
