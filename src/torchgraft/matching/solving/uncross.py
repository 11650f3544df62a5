"""Pairs that cross without a reason are put in order.

Where two sources and two targets of the same shapes fit either way, the reading that keeps both in order is taken. An
assignment as a whole doesn't see that: it adds up single pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torchgraft.matching.evidence.scores import FITS
from torchgraft.matching.parts.units import Unit

if TYPE_CHECKING:
    import numpy as np

SLACK = 0.45
SWEEPS = 3


def uncrossed(
    pairs: list[tuple[int, int]], scores: np.ndarray, sources: Sequence[Unit], targets: Sequence[Unit], order: float
) -> list[tuple[int, int]]:
    """Return the pairs with needless crossings undone.

    `scores` is what speaks for a pair apart from order, and `order` the weight of that, 0 to 1. Only pairs within the
    same outermost blocks are compared, so time grows with the blocks' sizes, not with the model's.
    """
    to = dict(pairs)
    groups: dict[tuple[str, str], list[int]] = {}
    for i, j in pairs:
        groups.setdefault((_outer(sources[i]), _outer(targets[j])), []).append(i)
    for members in groups.values():
        for _ in range(SWEEPS):
            if not _sweep(sorted(members), to, scores, order * SLACK):
                break
    return sorted(to.items())


def _outer(unit: Unit) -> str:
    return unit.blocks[0] if unit.blocks else ""


def _sweep(members: list[int], to: dict[int, int], scores: np.ndarray, slack: float) -> bool:
    changed = False
    for at, i in enumerate(members):
        for k in members[at + 1 :]:
            a, b = to[i], to[k]
            if a <= b or scores[i, b] < FITS or scores[k, a] < FITS:
                continue
            if scores[i, b] + scores[k, a] + slack >= scores[i, a] + scores[k, b]:
                to[i], to[k] = b, a
                changed = True
    return changed
