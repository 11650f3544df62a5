"""How alike two numbered blocks are before any pair is known: by the shapes that they hold and their place in the list."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from torchgraft.core.names import natural_key
from torchgraft.matching.names.words import stem
from torchgraft.matching.parts.units import Unit, shape_class

# Share of the likeness that only blocks of the same place, in lists of the same length, have.
SAME_PLACE = 0.5


def block_likeness(sources: Sequence[Unit], targets: Sequence[Unit]) -> tuple[np.ndarray, np.ndarray]:
    """Return, for all pairs of units, how alike their numbered blocks are, 0 to 1, and how alike the two are that are most so.

    The mean over the source's blocks, and the greatest, of the best likeness with any of the target's. Units outside
    blocks: 0.
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
            kind = tuple(
                sorted((role, shape_class(leaf.shape)) for role, leaf in unit.leaves.items() if role != "count")
            )
            for block, weight in zip(unit.blocks, unit.group_weights, strict=False):
                self.held[block][kind] += weight  # type: ignore[assignment]  # a few units may stand for many
        self.names = {name: n for n, name in enumerate(self.held)}
        self.sizes = np.array([sum(held.values()) for held in self.held.values()] + [0], np.float32)
        known = {block: place for u in units for block, place in zip(u.blocks, u.places, strict=False) if place}
        self.places = _places(list(self.held), known)
        depth = max((len(unit.blocks) for unit in units), default=0)
        none = len(self.names)
        self.levels = [
            np.array([self.names[u.blocks[at]] if at < len(u.blocks) else none for u in units], int)
            for at in range(depth)
        ]

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
