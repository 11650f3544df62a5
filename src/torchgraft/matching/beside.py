"""Lists side by side (`convs.0`, `convs.1`, `norms.0`, `norms.1`) read as one list of blocks (`0.convs`, `0.norms`).

One library keeps a list for each kind of layer, another a list of blocks that hold one of each. In file order the first
has all layers of a kind together, and order then tells the wrong story.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from torchgraft.matching.align import align
from torchgraft.matching.evidence import gather_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchgraft.matching.units import Unit

# What stands for the lists' names in the path of a block made of them.
ANY = "*"

# Up to so many possible pairs are compared both ways: a fraction of a second.
MOST = 1_000_000


def in_step(sources: Sequence[Unit], targets: Sequence[Unit]) -> tuple[list[Unit], list[Unit]]:
    """Return both sides, with lists side by side read as blocks where the two then agree further in their order."""
    best = list(sources), list(targets)
    if len(sources) * len(targets) > MOST:
        return best
    for other in ((_as_blocks(sources), best[1]), (best[0], _as_blocks(targets))):
        if other != best and _length(*other) > _length(*best):
            best = other
    return best


def _length(sources: Sequence[Unit], targets: Sequence[Unit]) -> int:
    return len(align(np.where(gather_shapes(sources, targets), 1.0, 0.0).astype(np.float32)))


def _as_blocks(units: Sequence[Unit]) -> list[Unit]:
    """Return the units in the order of blocks, under the blocks' paths; as they are where no lists stand side by side."""
    lists: dict[tuple[str, str], dict[int, int]] = {}
    for at, unit in enumerate(units):
        path, _, number = unit.path.rpartition(".")
        if number.isdecimal() and path:
            parent, _, name = path.rpartition(".")
            lists.setdefault((parent, name), {})[int(number)] = at
    groups: dict[tuple[str, int], list[str]] = {}
    for (parent, name), members in lists.items():
        if set(members) == set(range(len(members))) and len(members) > 1:
            groups.setdefault((parent, len(members)), []).append(name)
    moved: dict[int, list[int]] = {}
    for (parent, count), names in groups.items():
        if len(names) > 1:
            inside = [lists[parent, name][n] for n in range(count) for name in names]
            moved[min(inside)] = inside
    gone = {at for members in moved.values() for at in members}
    out: list[Unit] = []
    for at, unit in enumerate(units):
        out += [_in_block(units[k]) for k in moved[at]] if at in moved else [] if at in gone else [unit]
    return out


def _in_block(unit: Unit) -> Unit:
    *parents, name, number = unit.path.split(".")
    block = ".".join([*parents, ANY, number])
    return replace(unit, path=f"{block}.{name}", blocks=(*unit.blocks, block))
