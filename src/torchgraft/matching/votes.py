"""How neighbours vote: what else is paired between the same two blocks, and by the same kind of step within blocks.

A pair has no vote in its own block: shares are taken of the others there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchgraft.matching.units import Unit


def block_votes(pairs: Sequence[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return, for all pairs of units, how much of their blocks is paired with each other, 0 to 1.

    The mean over the source's blocks, outermost to innermost, of the best share with any of the target's.
    """
    return _votes(pairs, [u.groups or ("",) for u in sources], [u.groups or ("",) for u in targets], larger=True)


def tail_votes(pairs: Sequence[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return, for all pairs of units, how often units of the same place in their block are paired, 0 to 1."""
    return _votes(pairs, [u.tails for u in sources], [u.tails for u in targets], larger=False)


def _votes(
    pairs: Sequence[tuple[int, int]], ours: list[tuple[str, ...]], theirs: list[tuple[str, ...]], *, larger: bool
) -> np.ndarray:
    rows, columns = _Groups(ours), _Groups(theirs)
    counts = np.zeros((len(rows.ids) + 1, len(columns.ids) + 1), np.float32)
    goes = np.zeros((len(ours), len(columns.ids) + 1), np.float32)
    comes = np.zeros((len(rows.ids) + 1, len(theirs)), np.float32)
    mine = np.zeros((len(ours), len(theirs)), np.float32)
    for i, j in pairs:
        mine[i, j] = 1.0
        ins, outs = [rows.ids[a] for a in set(ours[i])], [columns.ids[b] for b in set(theirs[j])]
        counts[np.ix_(ins, outs)] += 1
        goes[i, outs] = 1.0
        comes[ins, j] = 1.0
    pick = np.maximum if larger else np.minimum
    whole = np.maximum(pick(rows.sizes[:, None], columns.sizes), 1)
    total, levels = np.zeros_like(mine), np.zeros((len(ours), 1), np.float32)
    for a in rows.levels:
        best = np.zeros_like(mine)
        for b in columns.levels:
            size, count = whole[np.ix_(a, b)], counts[np.ix_(a, b)]
            others = (count - goes[:, b] - comes[a] + mine) / np.maximum(size - 1, 1)
            np.maximum(best, np.where(size > 1, others if larger else count / size, 0.0), out=best)
        counted = (rows.sizes[a] > 1)[:, None]
        total += np.where(counted, best, 0.0)
        levels += counted
    return total / np.maximum(levels, 1)


class _Groups:
    """Group names numbered, their sizes, and per level the group of each unit (the last number stands for none)."""

    def __init__(self, groups: list[tuple[str, ...]]) -> None:
        self.ids = {name: n for n, name in enumerate(dict.fromkeys(g for unit in groups for g in unit))}
        self.sizes = np.zeros(len(self.ids) + 1, np.float32)
        for unit in groups:
            for name in set(unit):
                self.sizes[self.ids[name]] += 1
        depth = max(map(len, groups), default=0)
        none = len(self.ids)
        self.levels = [
            np.array([self.ids[unit[at]] if at < len(unit) else none for unit in groups], int) for at in range(depth)
        ]
