"""From traced elements to outputs: moves of data with their casts, constants, and what is neither."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Feed, Op
from torchgraft.core.results.conversion import Computed, Output
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.learning.explain import Moves, Origins, explain, insertions, without_constant
from torchgraft.learning.probes import CONSTANT, OTHER, Ids, Numbering, Traced
from torchgraft.ops import Cast, Constant, Literal

MOST_LITERALS = 1 << 16


def output_of(traced: Traced, numbering: Numbering) -> Output | Computed:
    """Return what makes the traced tensor, or why no plan does."""
    spec, ids = traced.spec, traced.ids
    if not ids.size:
        return Output(spec=spec, ops=(Constant(spec.shape, spec.dtype.label, 0.0),))
    other = int((ids == OTHER).sum())
    if other:
        share = "all" if other == ids.size else f"{other} of {ids.size}"
        return Computed(spec=spec, why=f"{share} of its elements are computed, not moved")
    constant = ids == CONSTANT
    if traced.values is None or not constant.any():
        return _moved(traced, ids, numbering)
    if constant.all():
        return _constant(spec, traced.values)
    return _partly_constant(traced, traced.values, constant, numbering)


def _constant(spec: TensorSpec, values: Tensor) -> Output | Computed:
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


def _moved(traced: Traced, ids: Ids, numbering: Numbering, more: tuple[Op, ...] = ()) -> Output | Computed:
    spec = traced.spec
    ends = np.searchsorted(numbering.starts, [ids.min(), ids.max()], side="right") - 1
    if ends[0] == ends[1]:  # the usual case, in which nothing need be looked up for each element
        used, tensor = ends[:1], np.broadcast_to(np.int64(0), ids.shape)
        place = ids - numbering.starts[ends[0]]
    else:
        owner = np.searchsorted(numbering.starts, ids.reshape(-1), side="right").reshape(ids.shape) - 1
        used = np.unique(owner)
        tensor, place = np.searchsorted(used, owner), ids - numbering.starts[owner]
    names = [numbering.names[i] for i in used]
    found = explain(Origins(tensor, place, names, [numbering.specs[name].shape for name in names]))
    if found is None:
        text = f"its elements are moved from {len(used)} tensors, in an order that no short plan describes"
        return Computed(spec=spec, why=text, keys=tuple(names))
    kinds = [numbering.specs[feed.key].dtype for feed in found.feeds]
    cast = _with_casts(found, kinds, spec.dtype)
    return Output(spec=spec, feeds=cast.feeds, ops=(*cast.ops, *more))


def _with_casts(moves: Moves, kinds: Sequence[DType], wanted: DType) -> Moves:
    """Return the moves with a cast of each feed that has another element type."""
    feeds = tuple(
        feed if kind is wanted else Feed(feed.key, (*feed.ops, Cast(wanted.label)))
        for feed, kind in zip(moves.feeds, kinds, strict=True)
    )
    return Moves(feeds, moves.ops)


def _partly_constant(
    traced: Traced, found: Tensor, constant: NDArray[np.bool_], numbering: Numbering
) -> Output | Computed:
    spec = traced.spec
    why = "moved elements are mixed with constants in a way that no short plan describes"
    if spec.dtype.kind == "complex":
        return Computed(spec=spec, why=why)
    values = np.array(_as_floats(found)).reshape(constant.shape)
    parted = without_constant(constant, values)
    if parted is None:
        return Computed(spec=spec, why=why)
    kept, dim, blocks, value = parted
    more = insertions(blocks, dim, value, constant.shape[dim])
    if more is None:
        return Computed(spec=spec, why=why)
    return _moved(traced, np.ascontiguousarray(traced.ids.take(kept, dim)), numbering, more)
