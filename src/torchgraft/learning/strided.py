"""From the places that elements come from, within one tensor, to the ops that fetch them from there.

Most conversions are views: a start, and a step for each dimension of the result. Sorted by step, such dimensions are
digits of a number in mixed radix; they say how the source must be shaped, cut and permuted. What is no view is a view
with some of its indices picked, repeated or in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd, prod

import numpy as np

from torchgraft.core.plan import Op
from torchgraft.core.specs import Shape
from torchgraft.learning.probes import Ids
from torchgraft.ops import Index, Permute, Reshape, SelectRows, SliceDim, Transpose, run_ops

DEEPEST = 4


@dataclass(frozen=True, slots=True)
class Digit:
    """A dimension of the source as it must be shaped: its size, its step in elements, and what is taken of it.

    `count` indices from `start` on become part `rank` of the result's dimension `dim` (None: of none).
    """

    size: int
    step: int
    count: int = 1
    start: int = 0
    dim: int | None = None
    rank: int = 0


def view_ops(places: Ids, shape: Shape, *, picks: bool = True) -> tuple[Op, ...] | None:
    """Return the ops that fetch `places` (numbers of elements in C order) from a tensor of `shape`; None if no few do.

    `picks` allows indices in any order. The result was run, and is right.
    """
    found = _ops(places, shape, picks=picks)
    return found if found is not None and _gives(found, places, shape) else None


def _gives(ops: Sequence[Op], places: Ids, shape: Shape) -> bool:
    import torch

    (value,) = run_ops(ops, [torch.arange(prod(shape), device="cpu").reshape(shape)])
    return np.array_equal(value.numpy(), places)


def _ops(places: Ids, shape: Shape, *, picks: bool) -> tuple[Op, ...] | None:
    first = int(places.reshape(-1)[0])
    if first == 0 and places.size == prod(shape) and np.array_equal(places.reshape(-1), np.arange(places.size)):
        return () if places.shape == shape else (Reshape(places.shape),)
    tables = [_along(places, dim) for dim in range(places.ndim)]
    if not _is_sum(places, first, tables):
        return None
    digits: list[Digit] = []
    selects: list[Op] = []
    sizes = list(places.shape)
    for dim, table in enumerate(tables):
        factors = _factors(table)
        if factors is None:
            if not picks:
                return None
            low = int(table.min())
            first += low
            step = gcd(*(int(n) for n in table - low))
            indices = tuple(int(n) for n in ((table - low) // step if step else table - low))
            sizes[dim] = max(indices) + 1
            factors = [(sizes[dim], step)] if step else []
            selects.append(SelectRows(dim, indices))
        digits += [Digit(0, step, count, 0, dim, rank) for rank, (count, step) in enumerate(factors)]
    made = _view(digits, first, shape, tuple(sizes))
    return None if made is None else (*made, *selects)


def _along(places: Ids, dim: int) -> Ids:
    at = tuple(slice(None) if d == dim else 0 for d in range(places.ndim))
    line: Ids = places[at] - places[at][0]
    return line


def _is_sum(places: Ids, first: int, tables: Sequence[Ids]) -> bool:
    """Return whether every place is the first one plus one number for each of its indices."""
    total: Ids = np.full((1,) * places.ndim, first, dtype=np.int64)
    for dim, table in enumerate(tables):
        total = total + table.reshape([-1 if d == dim else 1 for d in range(places.ndim)])
    return np.array_equal(places, total)


def _factors(table: Ids, depth: int = DEEPEST) -> list[tuple[int, int]] | None:
    """Return (count, step) of nested loops, the outermost first, that give the table; None where its steps don't nest."""
    size = len(table)
    if size == 1:
        return []
    step = int(table[1])
    if step <= 0 or depth == 0:
        return None
    breaks = np.flatnonzero(table != np.arange(size) * step)
    if not breaks.size:
        return [(size, step)]
    run = int(breaks[0])
    if size % run:
        return None
    rows = table.reshape(-1, run)
    if not np.array_equal(rows - rows[:, :1], np.broadcast_to(np.arange(run) * step, rows.shape)):
        return None
    outer = _factors(np.ascontiguousarray(rows[:, 0]), depth - 1)
    return None if outer is None else [*outer, (run, step)]


def _view(digits: Sequence[Digit], first: int, shape: Shape, sizes: Shape) -> tuple[Op, ...] | None:
    """Return the ops of a view of a tensor of `shape`: its result has `sizes`. Own dimensions are kept where they can be."""
    for bounds in (_steps(shape), ()):
        placed = _placed(digits, first, prod(shape), bounds)
        if placed is not None:
            return _as_ops(_with_ones(placed, shape), shape, sizes)
    return None


def _steps(shape: Shape) -> tuple[int, ...]:
    return tuple(prod(shape[d + 1 :]) for d, size in enumerate(shape) if size > 1)


def _placed(digits: Sequence[Digit], first: int, total: int, bounds: Sequence[int]) -> list[Digit] | None:
    """Return digits from the outermost to the innermost that make up a tensor of `total` elements."""
    ordered = sorted(digits, key=lambda d: -d.step)
    for bound in bounds:
        ordered = _split_at(ordered, bound)
    if not ordered or ordered[-1].step != 1:
        ordered.append(Digit(0, 1))
    if any(a.step % b.step or a.step == b.step for a, b in pairwise(ordered)):
        return None
    placed: list[Digit] = []
    outer = total
    for digit in ordered:
        if outer % digit.step:
            return None
        size = outer // digit.step
        start, first = divmod(first, digit.step)
        if start + digit.count > size:
            return None
        placed.append(replace(digit, size=size, start=start))
        outer = digit.step
    return placed


def _split_at(digits: list[Digit], bound: int) -> list[Digit]:
    """Return the digits with one that begins a dimension of step `bound`, where that is possible."""
    if any(digit.step == bound for digit in digits):
        return digits
    above = [digit for digit in digits if digit.step > bound]
    below = [digit for digit in digits if digit.step < bound]
    if (above and above[-1].step % bound) or (below and bound % below[0].step):
        return digits
    if below and below[0].count * below[0].step > bound:
        inner = below[0]
        reach, run = inner.count * inner.step, bound // inner.step
        if reach % bound:
            return digits
        later = [replace(d, rank=d.rank + 1) if d.dim == inner.dim and d.rank > inner.rank else d for d in below[1:]]
        above = [replace(d, rank=d.rank + 1) if d.dim == inner.dim and d.rank > inner.rank else d for d in above]
        halves = [replace(inner, step=bound, count=reach // bound), replace(inner, count=run, rank=inner.rank + 1)]
        return [*above, *halves, *later]
    return [*above, Digit(0, bound), *below]


def _with_ones(digits: Sequence[Digit], shape: Shape) -> list[Digit]:
    """Return the digits with the source's dimensions of size one put back, where all its other dimensions are there."""
    wide = [digit for digit in digits if digit.size > 1]
    if tuple(digit.size for digit in wide) != tuple(size for size in shape if size > 1):
        return wide
    rest = iter(wide)
    return [next(rest) if size > 1 else Digit(1, 1) for size in shape]


def _as_ops(digits: list[Digit], shape: Shape, sizes: Shape) -> tuple[Op, ...]:
    """Return the ops: shape, cut, permute, shape."""
    order = _order(digits, sizes)
    current = tuple(digit.size for digit in digits)
    ops: list[Op] = [] if current == shape else [Reshape(current)]
    for at, digit in enumerate(digits):
        if digit.count < digit.size and at in order:
            ops.append(SliceDim(at, digit.start, digit.start + digit.count, digit.size))
    ops += [Index(at, digits[at].start) for at in reversed(range(len(digits))) if at not in order]
    left = sorted(order)
    dims = tuple(left.index(at) for at in order)
    counts = tuple(digits[at].count for at in order)
    if _moves(dims, [digits[at].count for at in left]):
        ops.append(Transpose() if len(dims) == 2 else Permute(dims))
    else:
        counts = tuple(digits[at].count for at in left)
    if counts != sizes:
        ops.append(Reshape(sizes))
    return tuple(ops)


def _order(digits: Sequence[Digit], sizes: Shape) -> list[int]:
    """Return the numbers of the digits in the order of the result's dimensions, without those of which one index is picked."""
    ones = [at for at, digit in enumerate(digits) if digit.count == 1]
    order: list[int] = []
    for dim, size in enumerate(sizes):
        of_dim = sorted((at for at, d in enumerate(digits) if d.dim == dim), key=lambda at: digits[at].rank)
        if not of_dim and size == 1 and ones:
            of_dim = [ones.pop(0)]
        order += of_dim
    return [*(at for at in ones if digits[at].size == 1), *order]


def _moves(dims: Sequence[int], counts: Sequence[int]) -> bool:
    """Return whether the order of dimensions with more than one index changes."""
    wide = [d for d in dims if counts[d] > 1]
    return wide != sorted(wide)
