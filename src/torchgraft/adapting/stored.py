"""Tensors that stand in the file with more axes than they were matched with: kernels of other libraries, as matrices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torchgraft.adapting.fit import Fit
from torchgraft.core.match import Leaf
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.ops import Reshape


def from_stored(fit: Fit, source: Leaf, specs: Mapping[str, TensorSpec]) -> Fit:
    """Return how a leaf fits, from the shape that its tensor has in the file on; that of a part, whose cut sees to it, is kept."""
    ops = as_matched(source, specs)
    if fit.ops is None or not ops:
        return fit
    text = f"{list(specs[source.keys[0]].shape)} seen as {list(whole(source))}" + (fit.text and f", {fit.text}")
    return replace(fit, ops=fit.ops if source.part else (*ops, *fit.ops), text=text)


def as_matched(source: Leaf, specs: Mapping[str, TensorSpec]) -> tuple[Reshape, ...]:
    """Return the op that gives the tensor of a leaf the axes with which it was matched, none where it has them."""
    shape = whole(source)
    return () if source.form != "plain" or specs[source.keys[0]].shape == shape else (Reshape(shape),)


def whole(source: Leaf) -> Shape:
    """Return the shape of the tensor that a leaf is, or is a part of."""
    part = source.part
    return source.shape if part is None else (*source.shape[: part.dim], part.total, *source.shape[part.dim + 1 :])
