"""Pairs that nothing but their shape speaks for: one alone in its block, with something from outside all lists."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torchgraft.matching.evidence.scores import STRANGE
from torchgraft.matching.parts.units import Unit

if TYPE_CHECKING:
    import numpy as np

# So many units make a block of which one is not the whole.
MANY = 3


def without_strays(
    pairs: Sequence[tuple[int, int]], names: np.ndarray, sources: Sequence[Unit], targets: Sequence[Unit]
) -> list[tuple[int, int]]:
    """Return the pairs without strays.

    Where a model has more layers than the file, something that is left over elsewhere may have the shapes of a part of
    them. A part whose block stays free otherwise is not what it is.
    """
    alone = (_alone(sources, (i for i, _ in pairs)), _alone(targets, (j for _, j in pairs)))
    return [
        (i, j)
        for i, j in pairs
        if names[i, j] >= STRANGE
        or not ((i in alone[0] and not targets[j].blocks) or (j in alone[1] and not sources[i].blocks))
    ]


def _alone(units: Sequence[Unit], paired: Iterable[int]) -> set[int]:
    """Return the paired units whose blocks have many units and no other one that is paired."""
    sizes: dict[str, int] = defaultdict(int)
    for unit in units:
        sizes[unit.block] += 1
    held: dict[str, list[int]] = defaultdict(list)
    for at in paired:
        held[units[at].block].append(at)
    return {found[0] for block, found in held.items() if block and len(found) == 1 and sizes[block] >= MANY}
