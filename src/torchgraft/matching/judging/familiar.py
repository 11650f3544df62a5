"""Which parts of a file are familiar: named as in the model, so that what is left over there needs more than a shape.

A file may be familiar as a whole and hold a part (a backbone, a second tower) that another library names: there, nothing
agrees by name, and a pair is judged as in a foreign file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, product

from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.parts.units import Unit

# From so many units on a module is a part of its own; so much of both parts must be paired with each other.
PART, MUTUAL = 8, 0.8


class Familiar:
    """Which pairs stand in what is familiar; `pinned` are the units of the same name."""

    def __init__(
        self, pairs: Iterable[Pair], pinned: Mapping[int, int], sources: Sequence[Unit], targets: Sequence[Unit]
    ) -> None:
        self._whole = _share(pinned, sources, targets) > 0.5
        if not self._whole:
            return
        sides = (sources, set(pinned)), (targets, set(pinned.values()))
        around = [_parts(units) for units, _ in sides]
        self._parts = [[held[0] if held else "" for held in side] for side in around]
        self._sizes = [Counter(part for held in side for part in held) for side in around]
        self._named = [
            Counter(part for at, held in enumerate(side) if at in named for part in held)
            for side, (_, named) in zip(around, sides, strict=True)
        ]
        ours, theirs = around
        self._met = Counter(met for p in pairs for met in product(ours[p.source], theirs[p.target]))

    def holds(self, pair: Pair) -> bool:
        """Return whether a pair stands in what is familiar."""
        if not self._whole:
            return False
        parts = self._parts[0][pair.source], self._parts[1][pair.target]
        if not all(parts):
            return True
        sizes = [sizes[part] for sizes, part in zip(self._sizes, parts, strict=True)]
        named = [named[part] for named, part in zip(self._named, parts, strict=True)]
        known = any(2 * count > size for count, size in zip(named, sizes, strict=True))
        return known or self._met[parts] < MUTUAL * max(sizes)


def _share(pinned: Mapping[int, int], sources: Sequence[Unit], targets: Sequence[Unit]) -> float:
    if not pinned:
        return 0.0
    ours, theirs = ([unit.numel for unit in units] for units in (sources, targets))
    return sum([min(ours[i], theirs[j]) for i, j in pinned.items()]) / max(min(sum(ours), sum(theirs)), 1)


def _parts(units: Sequence[Unit]) -> list[list[str]]:
    """Return for each unit the modules around it that are parts of their own, innermost first."""
    around = [list(accumulate(unit.path.split(".")[:-1], "{}.{}".format)) for unit in units]
    inside = Counter(path for paths in around for path in paths)
    return [[path for path in reversed(paths) if inside[path] >= PART] for paths in around]
