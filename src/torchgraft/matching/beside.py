"""Lists side by side (`convs.0`, `convs.1`, `norms.0`, `norms.1`) read as one list of blocks (`0.convs`, `0.norms`).

One library keeps a list for each kind of layer, another a list of blocks that hold one of each. In file order the first
has all layers of a kind together, and order then tells the wrong story.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np

from torchgraft.matching.align import align
from torchgraft.matching.evidence import gather_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torchgraft.matching.units import Unit

# What stands for the lists' names in the path of a block made of them.
ANY = "*"

# Up to so many possible pairs are compared both ways: a fraction of a second.
MOST = 1_000_000

# Up to so many lists are tried in each order of theirs.
FEW = 3


def in_step(sources: Sequence[Unit], targets: Sequence[Unit]) -> tuple[list[Unit], list[Unit]]:
    """Return both sides, with lists side by side read as blocks where the two then agree further in their order.

    Within a block the order is that in which the lists come, or another one if the two sides then agree even further: a
    model may register its lists in any order.
    """
    best = list(sources), list(targets)
    if len(sources) * len(targets) > MOST:
        return best
    most = -1
    for side in (0, 1):
        for units in _as_blocks(best[side]):
            most = most if most >= 0 else _length(*best)
            other = (units, best[1]) if side == 0 else (best[0], units)
            reached = _length(*other)
            if reached > most:
                best, most = other, reached
    return best


def _length(sources: Sequence[Unit], targets: Sequence[Unit]) -> int:
    return len(align(np.where(gather_shapes(sources, targets), 1.0, 0.0).astype(np.float32)))


def _as_blocks(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Yield the units in the order of blocks, under the blocks' paths, for each order within blocks that is tried."""
    groups = _side_by_side(units)
    if not groups:
        return
    usual = [list(range(len(lists))) for lists in groups]
    orders = [usual]
    for at, lists in enumerate(groups):
        if len(lists) <= FEW:
            others = [list(order) for order in permutations(usual[at])][1:]
            orders += [[*usual[:at], order, *usual[at + 1 :]] for order in others]
    for order in orders:
        moved: dict[int, list[int]] = {}
        for lists, within in zip(groups, order, strict=True):
            inside = [lists[k][n] for n in range(len(lists[0])) for k in within]
            moved[min(inside)] = inside
        gone = {at for members in moved.values() for at in members}
        out: list[Unit] = []
        for at, unit in enumerate(units):
            out += [_in_block(units[k]) for k in moved[at]] if at in moved else [] if at in gone else [unit]
        yield out


def _side_by_side(units: Sequence[Unit]) -> list[list[list[int]]]:
    """Return the groups of lists of equal length below one path, each list as the places of its members."""
    lists: dict[tuple[str, str], dict[int, int]] = {}
    for at, unit in enumerate(units):
        path, _, number = unit.path.rpartition(".")
        if number.isdecimal() and path:
            parent, _, name = path.rpartition(".")
            lists.setdefault((parent, name), {})[int(number)] = at
    groups: dict[tuple[str, int], list[list[int]]] = {}
    for (parent, _), members in lists.items():
        if set(members) == set(range(len(members))) and len(members) > 1:
            groups.setdefault((parent, len(members)), []).append([members[n] for n in range(len(members))])
    return [found for found in groups.values() if len(found) > 1]


def _in_block(unit: Unit) -> Unit:
    *parents, name, number = unit.path.split(".")
    block = ".".join([*parents, ANY, number])
    return replace(unit, path=f"{block}.{name}", blocks=(*unit.blocks, block))
