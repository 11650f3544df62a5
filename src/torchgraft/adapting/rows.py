"""Rows and channels by meaning: they follow names, or a table grew at its end. They are never cut by position."""

from __future__ import annotations

from torchgraft.adapting.fit import Fit
from torchgraft.adapting.options import AxisNames, Options, said_of
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.match import Leaf
from torchgraft.core.plan import Op, Rows
from torchgraft.core.specs import Shape
from torchgraft.ops import MeanRows, PadRows, SelectRows

TOLD = 6


def row_fit(source: Leaf, target: Leaf, options: Options) -> Fit | None:
    """Return how the rows of a table move, or None when the caller has said nothing about them.

    Raises:
        UsageError: names that the caller gave don't fit the tensor.
    """
    if not options.axis_names and not options.grow_rows:
        return None
    names = said_of({p: one for p, one in options.axis_names.items() if len(target.shape) > one.dim}, target)
    if names is not None:
        return _by_name(source, target, names)
    new = said_of(options.grow_rows, target)
    a, b = source.shape, target.shape
    if new is not None and len(a) == len(b) and a and a[0] < b[0] and a[1:] == b[1:]:
        return _grown(a[0], b[0], new)
    return None


def _grown(old: int, size: int, new: str) -> Fit:
    count = size - old
    text = f"{old} rows copied, {count} new one{'s' * (count > 1)} at the end: {NEW[new]}"
    if new == "fresh":
        return Fit((), text, rows=Rows(0, tuple(range(old))), rule="grown rows")
    op: Op = MeanRows(source=old, target=size) if new == "mean" else PadRows(source=old, target=size)
    return Fit((op,), text, made=Rows(0, tuple(range(old, size))), rule="grown rows")


# What becomes of indices that the checkpoint has no name for, in words.
NEW = {"fresh": "fresh", "zero": "zero", "mean": "the mean of the old ones"}


def _by_name(source: Leaf, target: Leaf, names: AxisNames) -> Fit:
    dim = names.dim
    _check(source, target, names)
    old = names.places(names.source)
    pairs = sorted((at, old[name]) for name, at in names.places(names.target).items() if name in old)
    if not pairs:
        return Fit(None, "no name of an index in common")
    picks = tuple(i * names.each + k for _, i in pairs for k in range(names.each))
    filled = tuple(at * names.each + k for at, _ in pairs for k in range(names.each))
    size = target.shape[dim]
    axis = "rows" if dim == 0 else "input channels" if len(target.shape) > 2 else "columns"
    text = f"{axis} follow {len(pairs)} shared names"
    if len(filled) == size:
        return Fit((SelectRows(dim, picks),), text, rule="names")
    new = [printable(name) for name in names.places(names.target) if name not in old]
    new += [f"{size - len(filled) - len(new) * names.each} without a name"] * (
        len(filled) + len(new) * names.each < size
    )
    told = ", ".join(new[:TOLD]) + (f" and {len(new) - TOLD} more" if len(new) > TOLD else "")
    text += f"; {told}: {NEW[names.new]}"
    if names.new == "fresh":
        return Fit((SelectRows(dim, picks),), text, rows=Rows(dim, filled), rule="names")
    rest = source.shape[dim]
    more: Op = (MeanRows if names.new == "mean" else PadRows)(source=rest, target=rest + 1, dim=dim)
    at = dict(zip(filled, picks, strict=True))
    made = tuple(i for i in range(size) if i not in at)
    order = SelectRows(dim, tuple(at.get(i, rest) for i in range(size)))
    return Fit((more, order), text, made=Rows(dim, made), rule="names")


def _check(source: Leaf, target: Leaf, names: AxisNames) -> None:
    """Raise UsageError unless names and tensors agree on how many indices there are, and nothing else differs."""
    if _without(source.shape, names.dim) != _without(target.shape, names.dim):
        shapes = f"{list(source.shape)} in the file and {list(target.shape)} in the model"
        raise UsageError(f"names of indices: {printable(target.name)} is {shapes}, which differ along other axes, too")
    sides = (("file", source.shape, names.source), ("model", target.shape, names.target))
    for where, shape, given in sides:
        size, need = shape[names.dim], names.size(given)
        if size != need if isinstance(given, tuple) else size < need:
            raise UsageError(
                f"names of indices: {printable(target.name)} has {size} along axis {names.dim} in the {where}, but the "
                f"{len(given)} names of the {where} at {names.each} each stand for {need}"
            )


def _without(shape: Shape, dim: int) -> Shape:
    return (*shape[:dim], *shape[dim + 1 :])
