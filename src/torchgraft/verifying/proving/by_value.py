"""Proof by value: a tensor that no run shows holds what the plan says, computed independently of what filled it.

numpy computes it from the definitions, a second opinion on what the ops do: those whose result is a line or two, and those
that resample a grid. The kernel is the cubic one of Keys 1981 (a = -0.75; -0.5 where torch follows Pillow and smooths before
it shrinks).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from torchgraft.core.plan import Certainty, Feed, Step
from torchgraft.core.values import rows_of
from torchgraft.verifying.outputs import max_difference

Array = NDArray[Any]


def recompute(step: Step, read: Callable[[Feed], Array]) -> Array | None:
    """Return what a step writes, made of what `read` gives for its feeds; None where some op is not known here."""
    fed: list[Array | None] = [_run_ops(feed.ops, [read(feed)]) for feed in step.feeds]
    known = [value for value in fed if value is not None]
    if not known or len(known) < len(fed) or step.base:
        return None
    return _run_ops(step.ops, known)


def _run_ops(ops: Sequence[Any], values: list[Array]) -> Array | None:
    for op in ops:
        made = _NUMPY_OPS.get(op.name)
        if made is None:
            return None
        values = [made(op, values)]
    return values[0]


def _resample_grid(op: Any, values: list[Array]) -> Array:
    """Return a table on another grid; rows before the grid are picked."""
    table = values[0]
    grid = table[..., op.prefix_source :, :].reshape(*table.shape[:-2], *op.source_grid, table.shape[-1])
    images = np.moveaxis(grid, -1, -3)
    resized = _resize(images, size=op.target_grid, smooth=op.antialias, corners=op.align_corners)
    rows = np.moveaxis(resized, -3, -1).reshape(*table.shape[:-2], prod(op.target_grid), table.shape[-1])
    return np.concatenate([table[..., list(op.prefix_rows), :], rows], axis=-2)


def _resize(images: Array, *, size: Sequence[int], smooth: bool, corners: bool) -> Array:
    """Return images [..., height, width] at another size, one matrix for each axis; at their own size as they are."""
    if images.shape[-2:] == tuple(size):
        return images
    down, across = (
        _resize_matrix(old, new, smooth=smooth, corners=corners)
        for old, new in zip(images.shape[-2:], size, strict=True)
    )
    return np.asarray(down @ images @ across.T)


def _resize_matrix(old: int, new: int, *, smooth: bool, corners: bool) -> Array:
    """Return the matrix [new, old] that resizes a line."""
    scale = (old - 1) / max(new - 1, 1) if corners else old / new
    wide = max(scale, 1.0) if smooth else 1.0
    reach = ceil(2 * wide) + 1
    a = -0.5 if smooth else -0.75
    out = np.zeros((new, old))
    for row in range(new):
        at = row * scale if corners else (row + 0.5) * scale - 0.5
        for tap in range(int(np.floor(at)) - reach, int(np.floor(at)) + reach + 1):
            inside = min(max(tap, 0), old - 1)
            if smooth and inside != tap:  # what lies outside has no part; the rest makes up for it
                continue
            out[row, inside] += _cubic(abs(tap - at) / wide, a=a)
    return np.asarray(out / out.sum(1, keepdims=True))


def _cubic(x: float, *, a: float) -> float:
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


_NUMPY_OPS: Mapping[str, Callable[[Any, list[Array]], Array]] = {
    "transpose": lambda _, v: v[0].T,
    "permute": lambda op, v: np.transpose(v[0], op.dims),
    "reshape": lambda op, v: v[0].reshape(op.shape),
    "slice": lambda op, v: v[0].take(range(op.start, op.stop), axis=op.dim),
    "select": lambda op, v: v[0].take(op.indices, axis=op.dim),
    "index": lambda op, v: v[0].take(op.i, axis=op.dim),
    "cast": lambda _, v: v[0],  # rounded where it is compared
    "concat": lambda op, v: np.concatenate(v, axis=op.dim),
    "stack": lambda op, v: np.stack(v, axis=op.dim),
    "resample_grid": _resample_grid,
}


# Rounding of a table that was resampled in float32, relative to its greatest entry.
CLOSE = 1e-5


def relative_difference(step: Step, held: torch.Tensor, read: Callable[[Feed], torch.Tensor]) -> float | None:
    """Return how far a slot is from what its step says, relative to the greatest entry; None if that can't be computed.

    Values are compared as the slot's type holds them; rows that the checkpoint doesn't fill are left out.
    """
    expected = recompute(step, lambda feed: _widened(read(feed)).numpy())
    if expected is None:
        return None
    planned = torch.from_numpy(expected.copy()).to(held.dtype)
    if step.known is not None and step.known != step.rows:
        return None
    return max_difference(planned, rows_of(held.detach().to("cpu"), step.rows))[1]


def _widened(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the CPU, in a type in which numpy holds all its values."""
    own = tensor.detach().to("cpu")
    return own.double() if own.is_floating_point() else own


def has_sure_origin(step: Step, steps: Mapping[str, Step], proved: frozenset[str]) -> bool:
    """Whether it is sure where a tensor comes from: the plan has no doubt, or the other tensors of its module are proved.

    These must all come from the very module of the source that it comes from.
    """
    if step.certainty is not Certainty.DOUBT:
        return True
    homes = {_module_of(feed) for feed in step.feeds}
    beside = [
        other for name, other in steps.items() if name in proved and other.slot.owner == step.slot.owner and other.feeds
    ]
    return len(homes) == 1 and bool(beside) and {_module_of(feed) for other in beside for feed in other.feeds} == homes


def _module_of(feed: Feed) -> str:
    return feed.key.rpartition(".")[0]
