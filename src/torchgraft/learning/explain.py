"""From the places that elements come from to feeds and ops: cut the result where the source changes, and join again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from torchgraft.core.plan import Feed, Op
from torchgraft.core.specs import Shape
from torchgraft.learning.probes import Ids
from torchgraft.learning.strided import view_ops
from torchgraft.ops import Concat, InsertZeros, PadRows, Permute, Reshape, SelectRows, Stack

# A result of more pieces than this is no plan that anybody would read; of more picked elements, none that fits a file.
MOST_PIECES = 4096
MOST_CUTS = 8
MOST_PICKS = 1 << 16


@dataclass(frozen=True, slots=True)
class Moves:
    """Feeds with their own ops, and the ops that join them."""

    feeds: tuple[Feed, ...]
    ops: tuple[Op, ...] = ()


@dataclass(frozen=True, slots=True)
class Origins:
    """For each element of a result: the number of the source tensor, and the place within it in C order.

    `names` and `shapes` are those of the source tensors, all of which are used.
    """

    tensor: Ids
    place: Ids
    names: Sequence[str]
    shapes: Sequence[Shape]

    def part(self, tensor: Ids, place: Ids) -> Origins:
        """Return other elements of the same source."""
        return replace(self, tensor=tensor, place=place)


def explain(origins: Origins) -> Moves | None:
    """Return feeds and ops that make the result, None where no short plan does."""
    if len(origins.names) == 1:
        return _of_one(origins)
    axes = [d for d in range(origins.tensor.ndim) if _varies(origins.tensor, d)]
    return _along(origins, axes[0]) if len(axes) == 1 else _merged(origins, axes)


def _varies(tensor: Ids, dim: int) -> bool:
    return bool((tensor != tensor.take([0], dim)).any())


def _of_one(origins: Origins) -> Moves | None:
    """Return the moves from a single tensor: a view, a few views joined, or indices picked."""
    number = int(origins.tensor.reshape(-1)[0])
    name, shape, place = origins.names[number], origins.shapes[number], origins.place
    ops = view_ops(place, shape, picks=False)
    if ops is not None:
        return Moves((Feed(name, ops),))
    for dim in range(place.ndim):
        joined = _cut_at_jumps(place, dim, name, shape)
        if joined is not None:
            return joined
    ops = view_ops(place, shape)
    if ops is None and place.size <= MOST_PICKS:
        flat = (Reshape((prod(shape),)), SelectRows(0, tuple(int(n) for n in place.reshape(-1))), Reshape(place.shape))
        return Moves((Feed(name, flat),))
    return None if ops is None else Moves((Feed(name, ops),))


def _cut_at_jumps(place: Ids, dim: int, name: str, shape: Shape) -> Moves | None:
    """Return views joined along `dim`: cut where the distance from one index to the next isn't the usual one."""
    steps = np.diff(np.moveaxis(place, dim, 0).reshape(place.shape[dim], -1)[:, 0])
    if not steps.size:
        return None
    values, counts = np.unique(steps, return_counts=True)
    jumps = np.flatnonzero(steps != values[counts.argmax()]) + 1
    if not 0 < len(jumps) < MOST_CUTS:
        return None
    feeds = []
    for start, stop in pairwise([0, *(int(j) for j in jumps), place.shape[dim]]):
        ops = view_ops(_cut(place, dim, start, stop), shape, picks=False)
        if ops is None:
            return None
        feeds.append(Feed(name, ops))
    return Moves(tuple(feeds), (Concat(dim),))


def _cut(array: Ids, dim: int, start: int, stop: int) -> Ids:
    return array[tuple(slice(start, stop) if d == dim else slice(None) for d in range(array.ndim))]


def _along(origins: Origins, dim: int) -> Moves | None:
    """Return pieces joined along `dim`, where the source changes along that dimension alone."""
    line = np.moveaxis(origins.tensor, dim, 0).reshape(origins.tensor.shape[dim], -1)[:, 0]
    ends = [0, *(int(n) + 1 for n in np.flatnonzero(np.diff(line))), len(line)]
    again = next((start for start in ends[1:-1] if start > ends[1] and line[start] == line[0]), None)
    if again is not None:
        folded = _folded(origins, dim, again, line)
        if folded is not None:
            return folded
    if len(ends) > MOST_PIECES:
        return None
    pieces = [_piece(origins, dim, start, stop) for start, stop in pairwise(ends)]
    if any(piece is None for piece in pieces):
        return None
    feeds = tuple(feed for piece in pieces if piece is not None for feed in piece.feeds)
    if all(stop - start == 1 for start, stop in pairwise(ends)):
        flat = [_piece(origins, dim, start, start + 1, drop=True) for start in ends[:-1]]
        single = tuple(feed for piece in flat if piece is not None and not piece.ops for feed in piece.feeds)
        if len(single) == len(flat):
            return Moves(single, (Stack(dim),))
    return Moves(feeds, (Concat(dim),))


def _piece(origins: Origins, dim: int, start: int, stop: int, *, drop: bool = False) -> Moves | None:
    """Return the moves of a stretch from one source tensor; several views of it must be joined along `dim`, too."""
    tensor, place = (_cut(side, dim, start, stop) for side in (origins.tensor, origins.place))
    if drop:
        tensor, place = tensor.squeeze(dim), place.squeeze(dim)
    found = _of_one(origins.part(tensor, place))
    return found if found is not None and found.ops in ((), (Concat(dim),)) else None


def _folded(origins: Origins, dim: int, period: int, line: Ids) -> Moves | None:
    """Return the moves where sources take turns along `dim`: that dimension becomes (turn, place in it)."""
    size = len(line)
    if size % period or (line.reshape(-1, period) != line[:period]).any():
        return None
    shape = origins.tensor.shape
    split = (*shape[:dim], size // period, period, *shape[dim + 1 :])
    found = _along(origins.part(origins.tensor.reshape(split), origins.place.reshape(split)), dim + 1)
    return None if found is None else Moves(found.feeds, (*found.ops, Reshape(shape)))


def _merged(origins: Origins, axes: Sequence[int]) -> Moves | None:
    """Return the moves where the source changes along several dimensions: these are put first and become one."""
    shape = origins.tensor.shape
    order = [*axes, *(d for d in range(len(shape)) if d not in axes)]
    front = tuple(shape[d] for d in order)
    flat = (prod(front[: len(axes)]), *front[len(axes) :])
    tensor, place = (side.transpose(order).reshape(flat) for side in (origins.tensor, origins.place))
    if any(_varies(tensor, d) for d in range(1, len(flat))):
        return None
    found = _along(origins.part(tensor, place), 0)
    if found is None:
        return None
    back = tuple(order.index(d) for d in range(len(shape)))
    permuted = (Permute(back),) if back != tuple(range(len(shape))) else ()
    return Moves(found.feeds, (*found.ops, Reshape(front), *permuted))


def without_constant(
    constant: NDArray[np.bool_], values: NDArray[np.float64]
) -> tuple[Ids, int, list[tuple[int, int]], float] | None:
    """Return which indices along which dimension are not constant, the blocks that are, and their one value.

    `constant` says of each element whether it is one. None where constants are no whole indices, or several values.
    """
    of = np.unique(values[constant])
    for dim in range(constant.ndim):
        line = np.moveaxis(constant, dim, 0).reshape(constant.shape[dim], -1)
        if len(of) != 1 or (line != line[:, :1]).any():
            continue
        marks = line[:, 0]
        edges = np.flatnonzero(np.diff(np.concatenate([[0], marks.astype(np.int8), [0]])))
        blocks = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
        return np.flatnonzero(~marks), dim, blocks, float(of[0])
    return None


def insertions(blocks: Sequence[tuple[int, int]], dim: int, value: float, size: int) -> tuple[Op, ...] | None:
    """Return the ops that put constant blocks back; None for values other than zero anywhere but at the end."""
    if value == 0:
        return tuple(InsertZeros(dim, start, stop - start) for start, stop in blocks)
    if len(blocks) == 1 and blocks[0][1] == size:
        return (PadRows(source=blocks[0][0], target=size, dim=dim, value=value),)
    return None
