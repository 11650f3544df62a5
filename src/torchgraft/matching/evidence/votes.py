"""How neighbours vote: what else is paired between the same two blocks, and by the same kind of step within blocks.

A pair has no vote in its own block: shares are taken of the others there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from torchgraft.matching.parts.units import Unit


def block_votes(pairs: Sequence[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return, for all pairs of units, how much of their blocks is paired with each other, 0 to 1.

    The mean over the source's blocks, outermost to innermost, of the best share with any of the target's.
    """
    ours, theirs = (_Groups([u.groups or ("",) for u in s], [u.group_weights for u in s]) for s in (sources, targets))
    return _votes(pairs, ours, theirs, larger=True)


def tail_votes(pairs: Sequence[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return, for all pairs of units, how often units of the same place in their block are paired, 0 to 1.

    Of the pairs that either place takes part in, those of the two with each other: a place of which one block has a
    single one doesn't outvote a place that all blocks have.
    """
    ours, theirs = (_Groups([u.tails for u in s], [u.tail_weights for u in s]) for s in (sources, targets))
    return _votes(pairs, ours, theirs, larger=False)


def _votes(pairs: Sequence[tuple[int, int]], rows: _Groups, columns: _Groups, *, larger: bool) -> np.ndarray:
    counts = np.zeros((len(rows.sizes), len(columns.sizes)), np.float32)
    goes = np.zeros((len(rows.of), len(columns.sizes)), np.float32)
    comes = np.zeros((len(rows.sizes), len(columns.of)), np.float32)
    mine = np.zeros((len(rows.of), len(columns.of)), np.float32)
    paired = np.zeros(len(rows.sizes), np.float32), np.zeros(len(columns.sizes), np.float32)
    for i, j in pairs:
        mine[i, j] = 1.0
        ins, outs = list(rows.of[i]), list(columns.of[j])
        counts[np.ix_(ins, outs)] += np.minimum.outer(list(rows.of[i].values()), list(columns.of[j].values()))
        paired[0][ins] += list(rows.of[i].values())
        paired[1][outs] += list(columns.of[j].values())
        goes[i, outs] = 1.0
        comes[ins, j] = 1.0
    whole = np.maximum.outer(rows.sizes, columns.sizes) if larger else np.sqrt(np.multiply.outer(*paired))
    total, levels = np.zeros_like(mine), np.zeros((len(rows.of), 1), np.float32)
    for a in rows.levels:
        best = np.zeros_like(mine)
        for b in columns.levels:
            size, count = whole[np.ix_(a, b)], counts[np.ix_(a, b)]
            others = (count - goes[:, b] - comes[a] + mine) / np.maximum(size - 1, 1)
            np.maximum(best, np.where(size > 1, others, 0.0), out=best)
        counted = (rows.sizes[a] > 1)[:, None]
        total += np.where(counted, best, 0.0)
        levels += counted
    return total / np.maximum(levels, 1)


class _Groups:
    """Groups numbered, their sizes, per unit its weight in each of its groups, and per level the group of each unit.

    The last number stands for no group.
    """

    def __init__(self, groups: list[tuple[str, ...]], weights: list[tuple[float, ...]]) -> None:
        ids = {name: n for n, name in enumerate(dict.fromkeys(g for unit in groups for g in unit))}
        self.of = [
            {ids[g]: w for g, w in zip(unit, mine, strict=False)} for unit, mine in zip(groups, weights, strict=True)
        ]
        self.sizes = np.zeros(len(ids) + 1, np.float32)
        for unit in self.of:
            for n, weight in unit.items():
                self.sizes[n] += weight
        depth = max(map(len, groups), default=0)
        self.levels = [
            np.array([ids[unit[at]] if at < len(unit) else len(ids) for unit in groups], int) for at in range(depth)
        ]
