"""Boxes of tensors, and which boxes of an op's inputs a box of its result is made of.

`pull` goes through an op backwards: it returns the boxes of the inputs that are needed, and the ops that make the wanted
box of them. It knows the ops that move data; None means that the whole result must be made first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Any

from torchgraft.core.plan import Op
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.ops import (
    Cast,
    Concat,
    Index,
    JoinRanks,
    Permute,
    Reshape,
    SelectRows,
    SliceDim,
    Stack,
    Transpose,
)
from torchgraft.ops.base import replaced, without


@dataclass(frozen=True, slots=True)
class Box:
    """A part of a tensor: `sizes` indices from `starts` on, along each dimension."""

    starts: Shape
    sizes: Shape

    @classmethod
    def whole(cls, shape: Shape) -> Box:
        """Return the box that is all of a tensor."""
        return cls((0,) * len(shape), shape)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.sizes)

    def covers(self, shape: Shape) -> bool:
        """Return whether the box is all of a tensor of `shape`."""
        return self.sizes == shape

    def along(self, dim: int, start: int, size: int) -> Box:
        """Return the box with another range along `dim`."""
        return Box(replaced(self.starts, dim, start), replaced(self.sizes, dim, size))

    def words(self, shape: Shape) -> str:
        """Return the box as an index: `[0:4, :]`; empty for the whole tensor."""
        if self.covers(shape):
            return ""
        ranges = zip(self.starts, self.sizes, shape, strict=True)
        return "[" + ", ".join(":" if n == whole else f"{a}:{a + n}" for a, n, whole in ranges) + "]"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What makes a box of an op's result: for each input a box (None: it isn't needed), and ops for those that are."""

    boxes: tuple[Box | None, ...]
    ops: tuple[Op, ...]


def pull(op: Op, specs: Sequence[TensorSpec], box: Box) -> Pulled | None:
    """Return what makes `box` of the result of `op` on inputs with these specs, None where the op must run whole."""
    way = _WAYS.get(type(op))
    return way(op, specs, box) if way else None


def _same(op: Cast, specs: Sequence[TensorSpec], box: Box) -> Pulled:
    del specs
    return Pulled((box,), (op,))


def _turned(op: Transpose, specs: Sequence[TensorSpec], box: Box) -> Pulled:
    del specs
    return Pulled((Box(box.starts[::-1], box.sizes[::-1]),), (op,))


def _permuted(op: Permute, specs: Sequence[TensorSpec], box: Box) -> Pulled:
    del specs
    order = sorted(range(len(op.dims)), key=op.dims.__getitem__)
    back = Box(tuple(box.starts[d] for d in order), tuple(box.sizes[d] for d in order))
    return Pulled((back,), (op,))


def _sliced(op: SliceDim, specs: Sequence[TensorSpec], box: Box) -> Pulled:
    del specs
    return Pulled((box.along(op.dim, box.starts[op.dim] + op.start, box.sizes[op.dim]),), ())


def _indexed(op: Index, specs: Sequence[TensorSpec], box: Box) -> Pulled:
    del specs
    starts = (*box.starts[: op.dim], op.i, *box.starts[op.dim :])
    sizes = (*box.sizes[: op.dim], 1, *box.sizes[op.dim :])
    return Pulled((Box(starts, sizes),), (Index(op.dim, 0),))


def _shares(op: JoinRanks, specs: Sequence[TensorSpec], box: Box) -> Pulled | None:
    """Shares of rows or columns follow each other; those of fused parts take turns."""
    dims = {"rows": 0, "columns": 1}
    return _joined(Concat(dims[op.kind]), specs, box) if op.kind in dims else None


def _picked(op: SelectRows, specs: Sequence[TensorSpec], box: Box) -> Pulled | None:
    del specs
    start, size = box.starts[op.dim], box.sizes[op.dim]
    indices = op.indices[start : start + size]
    if not indices:
        return None
    low, high = min(indices), max(indices)
    moved = tuple(i - low for i in indices)
    ops = () if moved == tuple(range(high - low + 1)) else (SelectRows(op.dim, moved),)
    return Pulled((box.along(op.dim, low, high - low + 1),), ops)


def _joined(op: Concat, specs: Sequence[TensorSpec], box: Box) -> Pulled | None:
    """Return the inputs' parts that lie in the box. An empty box takes nothing of the first one."""
    start, stop = box.starts[op.dim], box.starts[op.dim] + box.sizes[op.dim]
    begins = list(accumulate((spec.shape[op.dim] for spec in specs), initial=0))
    boxes: list[Box | None] = []
    for begin, spec in zip(begins, specs, strict=False):
        low, high = max(start, begin), min(stop, begin + spec.shape[op.dim])
        boxes.append(box.along(op.dim, low - begin, high - low) if low < high else None)
    left = [b for b in boxes if b is not None]
    if not left:
        return None
    return Pulled(tuple(boxes), () if len(left) == 1 else (op,))


def _stacked(op: Stack, specs: Sequence[TensorSpec], box: Box) -> Pulled | None:
    start, size = box.starts[op.dim], box.sizes[op.dim]
    if not size:
        return None
    flat = Box(without(box.starts, op.dim), without(box.sizes, op.dim))
    return Pulled(tuple(flat if start <= i < start + size else None for i in range(len(specs))), (op,))


def _reshaped(op: Reshape, specs: Sequence[TensorSpec], box: Box) -> Pulled | None:
    """Return what makes a box after a change of shape.

    Last dimensions that both shapes share stay as they are. What the box takes of the others is a range of elements in
    C order; whole rows of the old first dimension are read around it, and what is too much is cut off.
    """
    old, new = specs[0].shape, op.shape
    if not prod(old) or not box.numel:
        return None
    if not old or not new:
        return Pulled((Box.whole(old),), (Reshape(new),))
    kept = 0
    while kept < min(len(old), len(new)) - 1 and old[-1 - kept] == new[-1 - kept]:
        kept += 1
    head_old, head_new = old[: len(old) - kept], new[: len(new) - kept]
    starts, sizes = box.starts[: len(head_new)], box.sizes[: len(head_new)]
    tail_starts, tail_sizes = box.starts[len(head_new) :], box.sizes[len(head_new) :]
    inner = prod(head_new[1:])
    first, last = starts[0] * inner, (starts[0] + sizes[0]) * inner
    row = prod(head_old[1:])
    low, high = first // row, -(-last // row)
    source = Box((low, *(0,) * (len(head_old) - 1), *tail_starts), (high - low, *head_old[1:], *tail_sizes))
    ops: list[Op] = [Reshape(((high - low) * row, *tail_sizes))]
    if (high - low) * row != last - first:
        ops.append(SliceDim(0, first - low * row, last - low * row))
    ops.append(Reshape((sizes[0], *head_new[1:], *tail_sizes)))
    cut = [d for d in range(1, len(head_new)) if sizes[d] != head_new[d]]
    ops.extend(SliceDim(d, starts[d], starts[d] + sizes[d]) for d in cut)
    return Pulled((source,), _without_idle(ops, source.sizes))


def _without_idle(ops: Sequence[Op], shape: Shape) -> tuple[Op, ...]:
    """Return the ops without reshapes that only lead to the next one, or change nothing."""
    kept = [op for at, op in enumerate(ops) if not (isinstance(op, Reshape) and isinstance(_next(ops, at), Reshape))]
    if len(kept) == 1 and isinstance(kept[0], Reshape) and kept[0].shape == shape:
        return ()
    return tuple(kept)


def _next(ops: Sequence[Op], at: int) -> Op | None:
    return ops[at + 1] if at + 1 < len(ops) else None


# How to go back through each op that moves data; the others have no entry.
_WAYS: Mapping[type, Callable[[Any, Sequence[TensorSpec], Box], Pulled | None]] = {
    Cast: _same, Transpose: _turned, Permute: _permuted, SliceDim: _sliced, Index: _indexed,
    SelectRows: _picked, Concat: _joined, JoinRanks: _shares, Stack: _stacked, Reshape: _reshaped,
}  # fmt: skip
