"""From the origins of elements to outputs: moves of data with their casts, constants, and what is neither.

A result is cut where the source tensor changes; each piece is explained as a view of its source, and the pieces are
joined again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Feed, Op
from torchgraft.core.results.conversion import Computed, Output
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.learning.probes import COMPUTED, CONSTANT, ElementNumbers, Ids, Traced
from torchgraft.learning.strided import view_ops
from torchgraft.ops import (
    Cast,
    Concat,
    Constant,
    InsertZeros,
    Literal,
    PadRows,
    Permute,
    Reshape,
    SelectRows,
    Stack,
)

MOST_LITERALS = 1 << 16
# A result of more pieces than this is no plan that anybody would read; of more picked elements, none that fits a file.
MOST_PIECES = 4096
MOST_CUTS = 8
MOST_PICKS = 1 << 16


def output_of(traced: Traced, numbers: ElementNumbers) -> Output | Computed:
    """Return what makes the traced tensor, or why no plan does."""
    spec, ids = traced.spec, traced.ids
    if not ids.size:
        return Output(spec=spec, ops=(Constant(spec.shape, spec.dtype.label, 0.0),))
    computed = int((ids == COMPUTED).sum())
    if computed:
        share = "all" if computed == ids.size else f"{computed} of {ids.size}"
        return Computed(spec=spec, why=f"{share} of its elements are computed, not moved")
    constant = ids == CONSTANT
    if traced.values is None or not constant.any():
        return _moved_output(traced, ids, numbers)
    if constant.all():
        return _constant_output(spec, traced.values)
    return _partly_constant_output(traced, traced.values, constant, numbers)


def _constant_output(spec: TensorSpec, values: Tensor) -> Output | Computed:
    if spec.dtype.kind == "complex":
        return Computed(spec=spec, why="a constant of complex numbers, which no plan holds")
    flat = _as_floats(values)
    if all(value == flat[0] for value in flat):
        return Output(spec=spec, ops=(Constant(spec.shape, spec.dtype.label, flat[0]),))
    if not np.isfinite(flat).all() or (spec.dtype.kind in ("int", "uint") and max(map(abs, flat)) >= 1 << 53):
        return Computed(spec=spec, why="a constant with values that no plan file holds")
    if len(flat) > MOST_LITERALS:
        return Computed(spec=spec, why=f"a constant of {len(flat)} different values, too many for a plan")
    return Output(spec=spec, ops=(Literal(spec.shape, spec.dtype.label, tuple(flat)),))


def _as_floats(values: Tensor) -> list[float]:
    import torch

    flat: list[float] = values.reshape(-1).to(torch.float64).tolist()
    return flat


def _moved_output(traced: Traced, ids: Ids, numbers: ElementNumbers, more: tuple[Op, ...] = ()) -> Output | Computed:
    spec = traced.spec
    ends = np.searchsorted(numbers.starts, [ids.min(), ids.max()], side="right") - 1
    if ends[0] == ends[1]:  # the usual case, in which nothing need be looked up for each element
        used, tensor = ends[:1], np.broadcast_to(np.int64(0), ids.shape)
        place = ids - numbers.starts[ends[0]]
    else:
        owner = np.searchsorted(numbers.starts, ids.reshape(-1), side="right").reshape(ids.shape) - 1
        used = np.unique(owner)
        tensor, place = np.searchsorted(used, owner), ids - numbers.starts[owner]
    names = [numbers.names[i] for i in used]
    found = find_moves(Origins(tensor, place, names, [numbers.specs[name].shape for name in names]))
    if found is None:
        text = f"its elements are moved from {len(used)} tensors, in an order that no short plan describes"
        return Computed(spec=spec, why=text, keys=tuple(names))
    kinds = [numbers.specs[feed.key].dtype for feed in found.feeds]
    cast = _with_casts(found, kinds, spec.dtype)
    return Output(spec=spec, feeds=cast.feeds, ops=(*cast.ops, *more))


def _with_casts(moves: Moves, kinds: Sequence[DType], wanted: DType) -> Moves:
    """Return the moves with a cast of each feed that has another element type."""
    feeds = tuple(
        feed if kind is wanted else Feed(feed.key, (*feed.ops, Cast(wanted.label)))
        for feed, kind in zip(moves.feeds, kinds, strict=True)
    )
    return Moves(feeds, moves.ops)


def _partly_constant_output(
    traced: Traced, found: Tensor, constant: NDArray[np.bool_], numbers: ElementNumbers
) -> Output | Computed:
    spec = traced.spec
    why = "moved elements are mixed with constants in a way that no short plan describes"
    if spec.dtype.kind == "complex":
        return Computed(spec=spec, why=why)
    values = np.array(_as_floats(found)).reshape(constant.shape)
    parted = _split_off_constant(constant, values)
    if parted is None:
        return Computed(spec=spec, why=why)
    kept, dim, blocks, value = parted
    more = _insert_ops(blocks, dim, value, constant.shape[dim])
    if more is None:
        return Computed(spec=spec, why=why)
    return _moved_output(traced, np.ascontiguousarray(traced.ids.take(kept, dim)), numbers, more)


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


def find_moves(origins: Origins) -> Moves | None:
    """Return feeds and ops that make the result, None where no short plan does."""
    if len(origins.names) == 1:
        return _from_one_tensor(origins)
    axes = [d for d in range(origins.tensor.ndim) if _varies_along(origins.tensor, d)]
    return _joined_along(origins, axes[0]) if len(axes) == 1 else _flattened(origins, axes)


def _varies_along(tensor: Ids, dim: int) -> bool:
    return bool((tensor != tensor.take([0], dim)).any())


def _from_one_tensor(origins: Origins) -> Moves | None:
    """Return the moves from a single tensor: a view, a few views joined, or indices picked."""
    number = int(origins.tensor.reshape(-1)[0])
    name, shape, place = origins.names[number], origins.shapes[number], origins.place
    ops = view_ops(place, shape, picks=False)
    if ops is not None:
        return Moves((Feed(name, ops),))
    for dim in range(place.ndim):
        joined = _views_joined(place, dim, name, shape)
        if joined is not None:
            return joined
    ops = view_ops(place, shape)
    if ops is None and place.size <= MOST_PICKS:
        flat = (Reshape((prod(shape),)), SelectRows(0, tuple(int(n) for n in place.reshape(-1))), Reshape(place.shape))
        return Moves((Feed(name, flat),))
    return None if ops is None else Moves((Feed(name, ops),))


def _views_joined(place: Ids, dim: int, name: str, shape: Shape) -> Moves | None:
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
        ops = view_ops(_slice(place, dim, start, stop), shape, picks=False)
        if ops is None:
            return None
        feeds.append(Feed(name, ops))
    return Moves(tuple(feeds), (Concat(dim),))


def _slice(array: Ids, dim: int, start: int, stop: int) -> Ids:
    return array[tuple(slice(start, stop) if d == dim else slice(None) for d in range(array.ndim))]


def _joined_along(origins: Origins, dim: int) -> Moves | None:
    """Return pieces joined along `dim`, where the source changes along that dimension alone."""
    line = np.moveaxis(origins.tensor, dim, 0).reshape(origins.tensor.shape[dim], -1)[:, 0]
    ends = [0, *(int(n) + 1 for n in np.flatnonzero(np.diff(line))), len(line)]
    period = next((start for start in ends[1:-1] if start > ends[1] and line[start] == line[0]), None)
    if period is not None:
        found = _interleaved(origins, dim, period, line)
        if found is not None:
            return found
    if len(ends) > MOST_PIECES:
        return None
    pieces = _pieces(origins, dim, ends)
    if pieces and len(pieces) == len(line):
        flat = _pieces(origins, dim, ends, drop=True)
        if flat and not any(piece.ops for piece in flat):
            return Moves(tuple(feed for piece in flat for feed in piece.feeds), (Stack(dim),))
    return Moves(tuple(feed for piece in pieces for feed in piece.feeds), (Concat(dim),)) if pieces else None


def _pieces(origins: Origins, dim: int, ends: Sequence[int], *, drop: bool = False) -> list[Moves]:
    """Return the moves of each stretch between two ends, [] where one has none."""
    found = [_moves_of_slice(origins, dim, start, stop, drop=drop) for start, stop in pairwise(ends)]
    pieces = [one for one in found if one is not None]
    return pieces if len(pieces) == len(found) else []


def _moves_of_slice(origins: Origins, dim: int, start: int, stop: int, *, drop: bool = False) -> Moves | None:
    """Return the moves of a stretch from one source tensor; several views of it must be joined along `dim`, too."""
    tensor, place = (_slice(side, dim, start, stop) for side in (origins.tensor, origins.place))
    if drop:
        tensor, place = tensor.squeeze(dim), place.squeeze(dim)
    found = _from_one_tensor(origins.part(tensor, place))
    return found if found is not None and found.ops in ((), (Concat(dim),)) else None


def _interleaved(origins: Origins, dim: int, period: int, line: Ids) -> Moves | None:
    """Return the moves where sources take turns along `dim`: that dimension becomes (turn, place in it)."""
    size = len(line)
    if size % period or (line.reshape(-1, period) != line[:period]).any():
        return None
    shape = origins.tensor.shape
    split = (*shape[:dim], size // period, period, *shape[dim + 1 :])
    found = _joined_along(origins.part(origins.tensor.reshape(split), origins.place.reshape(split)), dim + 1)
    return None if found is None else Moves(found.feeds, (*found.ops, Reshape(shape)))


def _flattened(origins: Origins, axes: Sequence[int]) -> Moves | None:
    """Return the moves where the source changes along several dimensions, and no others: these are put first and become one."""
    shape = origins.tensor.shape
    order = [*axes, *(d for d in range(len(shape)) if d not in axes)]
    front = tuple(shape[d] for d in order)
    flat = (prod(front[: len(axes)]), *front[len(axes) :])
    tensor, place = (side.transpose(order).reshape(flat) for side in (origins.tensor, origins.place))
    found = _joined_along(origins.part(tensor, place), 0)
    if found is None:
        return None
    back = tuple(order.index(d) for d in range(len(shape)))
    permuted = (Permute(back),) if back != tuple(range(len(shape))) else ()
    return Moves(found.feeds, (*found.ops, Reshape(front), *permuted))


def _split_off_constant(
    constant: NDArray[np.bool_], values: NDArray[np.float64]
) -> tuple[Ids, int, list[tuple[int, int]], float] | None:
    """Return the dimension, its indices that are not constant, the blocks that are, and their one value.

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


def _insert_ops(blocks: Sequence[tuple[int, int]], dim: int, value: float, size: int) -> tuple[Op, ...] | None:
    """Return the ops that put constant blocks back; None for values other than zero anywhere but at the end."""
    if value == 0:
        return tuple(InsertZeros(dim, start, stop - start) for start, stop in blocks)
    if len(blocks) == 1 and blocks[0][1] == size:
        return (PadRows(source=blocks[0][0], target=size, dim=dim, value=value),)
    return None
