"""Evidence from the numbered blocks around two units: how alike these are, and how much else in them is paired."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from torchgraft.core.names import natural_key
from torchgraft.matching.names.lists import stem
from torchgraft.matching.parts.units import Unit, kind_of

# Share of the likeness that only blocks of the same place, in lists of the same length, have.
SAME_PLACE = 0.5


def block_likeness(sources: Sequence[Unit], targets: Sequence[Unit]) -> tuple[np.ndarray, np.ndarray]:
    """Return how alike the numbered blocks of all pairs of units are, 0 to 1, and how alike the two that are most so.

    By the shapes that they hold and their place in the list, before any pair is known. The mean over the source's blocks,
    and the greatest, of the best likeness with any of the target's. Units outside blocks: 0.
    """
    ours, theirs = _Blocks(sources), _Blocks(targets)
    out = np.zeros((len(sources), len(targets)), np.float32)
    if not ours.names or not theirs.names:
        return out, out
    kinds = {kind for side in (ours, theirs) for held in side.held.values() for kind in held}
    common = np.zeros((len(ours.names) + 1, len(theirs.names) + 1), np.float32)
    for kind in kinds:
        common += np.minimum.outer(ours.count(kind), theirs.count(kind))
    likeness = common / np.maximum(np.maximum.outer(ours.sizes, theirs.sizes), 1)
    same = (ours.places[:, None, :] == theirs.places[None, :, :]).all(axis=2)
    likeness *= 1 - SAME_PLACE + SAME_PLACE * same
    most = np.zeros_like(out)
    levels = np.zeros((len(sources), 1), np.float32)
    for a in ours.levels:
        best = np.zeros_like(out)
        for b in theirs.levels:
            np.maximum(best, likeness[np.ix_(a, b)], out=best)
        out += best
        np.maximum(most, best, out=most)
        levels += (a < len(ours.names))[:, None]
    return out / np.maximum(levels, 1), most


class _Blocks:
    """The numbered blocks of one side: what kinds of units each holds, and where it stands in its list."""

    def __init__(self, units: Sequence[Unit]) -> None:
        self.held: dict[str, Counter[object]] = defaultdict(Counter)
        for unit in units:
            kind = kind_of(unit)
            for block, weight in zip(unit.blocks, unit.group_weights, strict=False):
                self.held[block][kind] += weight  # type: ignore[assignment]  # a few units may stand for many
        self.names = {name: n for n, name in enumerate(self.held)}
        self.sizes = np.array([sum(held.values()) for held in self.held.values()] + [0], np.float32)
        known = {block: place for u in units for block, place in zip(u.blocks, u.places, strict=False) if place}
        self.places = _places(list(self.held), known)
        self.levels = _levels([unit.blocks for unit in units], self.names)

    def count(self, kind: object) -> np.ndarray:
        """Return how many units of a kind each block holds; the last entry stands for no block."""
        return np.array([held[kind] for held in self.held.values()] + [0], np.float32)


def _places(blocks: list[str], known: Mapping[str, tuple[int, int]]) -> np.ndarray:
    """Return (place in the list by number, length of the list) for each block, and an impossible place for none.

    Those that are `known` are of lists of which only a few members are here.
    """
    lists: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for block in blocks:
        parent, _, last = block.rpartition(".")
        lists[parent, stem(last)].append(block)
    place = {
        block: (at, len(members))
        for members in lists.values()
        for at, block in enumerate(sorted(members, key=natural_key))
    } | dict(known)
    return np.array([place[block] for block in blocks] + [(-1, 0)], int)


def block_votes(pairs: Sequence[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return, for all pairs of units, how much of their blocks is paired with each other, 0 to 1.

    The mean over the source's blocks, outermost to innermost, of the best share with any of the target's. A pair has no
    vote in its own block: shares are taken of the others there.
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
        self.levels = _levels(groups, ids)


def _levels(groups: Sequence[tuple[str, ...]], ids: Mapping[str, int]) -> list[np.ndarray]:
    """Return for each level, the outermost first, the number of the group that each unit is in; one more than all for none."""
    depth = max(map(len, groups), default=0)
    return [np.array([ids[unit[at]] if at < len(unit) else len(ids) for unit in groups], int) for at in range(depth)]
