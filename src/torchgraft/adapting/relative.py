"""Tables of relative positions of another size: along one axis by their length, of windows by their squares."""

from __future__ import annotations

from math import isqrt

from torchgraft.adapting.fit import Fit
from torchgraft.core.errors import UsageError
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf
from torchgraft.core.names import words
from torchgraft.core.plan import Certainty
from torchgraft.core.specs import Shape
from torchgraft.ops import Resample1d, ResampleBiasTable

Grid = tuple[int, int]


def times(grid: Grid) -> str:
    """Return the sides of a grid in words: 3x4."""
    return f"{grid[0]}x{grid[1]}"


def axis_table(a: Shape, b: Shape) -> Fit | None:
    """Relative tables of one axis: [2S-1, head size]."""
    if a[1] != b[1] or a[0] == b[0] or a[0] % 2 == 0 or b[0] % 2 == 0:
        return None
    return Fit((Resample1d(b[0]),), f"relative positions {a[0]} -> {b[0]}", rule=Ground.POSITIONS)


def window_table(source: Leaf, target: Leaf, stated: tuple[Grid, Grid] | None) -> Fit | None:
    """Relative tables of windows: [(2h-1)(2w-1), heads], with three rows more where a class token has offsets of its own.

    Windows that aren't stated are taken to be square. Where the number of rows could also be that of another one, that is
    the convention that settles it.
    """
    a, b = source.shape, target.shape
    if a[1] != b[1] or a[0] == b[0] or "table" not in words(source.role):
        return None
    if stated is not None:
        extras = {n - _offsets(*window) for n, window in zip((a[0], b[0]), stated, strict=True)}
        if extras not in ({0}, {3}):
            raise UsageError(
                f"grids={{{target.keys[0]!r}: {stated}}}: windows of {times(stated[0])} and {times(stated[1])} don't make "
                f"tables of {a[0]} and {b[0]} rows"
            )
        return _rewindowed(stated, extras.pop(), Certainty.CERTAIN)
    for extra in (0, 3):
        sides = [isqrt(n - extra) for n in (a[0], b[0])]
        if all(s * s == n - extra and s % 2 for s, n in zip(sides, (a[0], b[0]), strict=True)):
            first, second = ((s + 1) // 2 for s in sides)
            sure = Certainty.CERTAIN if all(map(_is_prime, sides)) else Certainty.LIKELY
            return _rewindowed(((first, first), (second, second)), extra, sure)
    text = (
        f"relative tables of {a[0]} and {b[0]} rows are of no square windows: grids={{'*{target.role}': ((height, width), "
        f"(height, width))}} states them"
    )
    return Fit(None, text)


def _offsets(height: int, width: int) -> int:
    return (2 * height - 1) * (2 * width - 1)


def _is_prime(number: int) -> bool:
    """Whether only a square window has as many offsets as one of this side."""
    return number > 1 and all(number % n for n in range(2, isqrt(number) + 1))


def _rewindowed(windows: tuple[Grid, Grid], extra: int, sure: Certainty) -> Fit:
    op = ResampleBiasTable(windows[0], windows[1], extra)
    text = f"relative positions of a {times(windows[0])} window -> {times(windows[1])}"
    return Fit((op,), text, certainty=sure, rule=Ground.POSITIONS)
