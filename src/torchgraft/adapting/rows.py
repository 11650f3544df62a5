"""Rows and channels by meaning: they follow names, or a table grew at its end. They are never cut by position."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torchgraft.adapting.fit import Fit
from torchgraft.adapting.options import AxisNames, Options, option_for
from torchgraft.adapting.orientation import is_transposed
from torchgraft.adapting.tables import VOCABULARY_WORDS
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf, Match
from torchgraft.core.names import words
from torchgraft.core.plan import Certainty, Op, Rows
from torchgraft.ops import MeanRows, PadRows, SelectRows, SliceDim
from torchgraft.ops.base import without

TOLD = 6


def row_fit(source: Leaf, target: Leaf, options: Options) -> Fit | None:
    """Return how the rows of a table move, or None when the caller has said nothing about them.

    Raises:
        UsageError: names that the caller gave don't fit the tensor.
    """
    if not options.axis_names and not options.grow_rows:
        return None
    names = option_for({p: one for p, one in options.axis_names.items() if len(target.shape) > one.dim}, target)
    if names is not None:
        return _by_name(source, target, names)
    new = option_for(options.grow_rows, target)
    a, b = source.shape, target.shape
    if new is not None and len(a) == len(b) and a and a[0] < b[0] and a[1:] == b[1:]:
        return _grown(a[0], b[0], new)
    return None


def with_note_on_shrinking(fit: Fit, source: Leaf, target: Leaf, options: Options) -> Fit:
    """Return the fit of a table; where the caller lets it grow and it has fewer rows in the model, say that this cuts nothing."""
    a, b = source.shape, target.shape
    if fit.ops is not None or a[1:] != b[1:] or not a or a[0] <= b[0] or option_for(options.grow_rows, target) is None:
        return fit
    return replace(fit, text=f"{fit.text}: grow_rows= cuts none, axis_names= can say which stay")


def _grown(old: int, size: int, new: str) -> Fit:
    count = size - old
    text = f"{old} rows copied, {count} new one{'s' * (count > 1)} at the end: {NEW[new]}"
    if new == "fresh":
        return Fit((), text, rows=Rows(0, tuple(range(old))), rule=Ground.GROWN_ROWS)
    op: Op = MeanRows(source=old, target=size) if new == "mean" else PadRows(source=old, target=size)
    return Fit((op,), text, made=Rows(0, tuple(range(old, size))), rule=Ground.GROWN_ROWS)


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
    axis = _axis(target, dim)
    text = f"{axis} follow {len(pairs)} shared names"
    if len(filled) == size:
        return Fit((SelectRows(dim, picks),), text, rule=Ground.NAMES)
    new = [printable(name) for name in names.places(names.target) if name not in old]
    new += [f"{size - len(filled) - len(new) * names.each} without a name"] * (
        len(filled) + len(new) * names.each < size
    )
    told = ", ".join(new[:TOLD]) + (f" and {len(new) - TOLD} more" if len(new) > TOLD else "")
    text += f"; {told}: {NEW[names.new]}"
    if names.new == "fresh":
        return Fit((SelectRows(dim, picks),), text, rows=Rows(dim, filled), rule=Ground.NAMES)
    rest = source.shape[dim]
    more: Op = (MeanRows if names.new == "mean" else PadRows)(source=rest, target=rest + 1, dim=dim)
    at = dict(zip(filled, picks, strict=True))
    made = tuple(i for i in range(size) if i not in at)
    order = SelectRows(dim, tuple(at.get(i, rest) for i in range(size)))
    return Fit((more, order), text, made=Rows(dim, made), rule=Ground.NAMES)


def _axis(target: Leaf, dim: int) -> str:
    """Return what lies along an axis of a weight; a transposed convolution keeps its inputs first."""
    if is_transposed(target):
        return ("input channels", "output channels")[dim] if dim < 2 else "positions"
    return "rows" if dim == 0 else "input channels" if len(target.shape) > 2 else "columns"


def _check(source: Leaf, target: Leaf, names: AxisNames) -> None:
    """Raise UsageError unless names and tensors agree on how many indices there are, and nothing else differs."""
    if without(source.shape, names.dim) != without(target.shape, names.dim):
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


# A table that is shorter by up to this share of its rows lacks padding, or tokens that were added last; one that is shorter by
# more is for another vocabulary, whose first rows are other tokens.
FEW = 1 / 16


def changed_vocabularies(matches: Iterable[Match]) -> frozenset[tuple[int, int]]:
    """Return (rows in the file, rows in the model) of token tables that have more rows in the model, or a few less.

    A table whose name doesn't speak of tokens is one if an output layer lacks as many rows: a vocabulary that was padded.
    """
    told: set[tuple[int, int]] = set()
    tables: set[tuple[int, int]] = set()
    layers: set[tuple[int, int]] = set()
    for m in matches:
        a, b = m.source.shape, m.target.shape
        if len(a) == len(b) == 2 and a[1] == b[1] and a[0] != b[0] >= (1 - FEW) * a[0]:
            if VOCABULARY_WORDS & set(words(m.target.owner.rpartition(".")[2])):
                told.add((a[0], b[0]))
            elif b[0] < a[0]:
                (tables if m.target.kind == "Embedding" else layers).add((a[0], b[0]))
    return frozenset(told | (tables & layers))


def vocabulary_fit(source: Leaf, target: Leaf, changed: frozenset[tuple[int, int]]) -> Fit | None:
    """Return the reading of a table, output layer or its bias whose rows are tokens; doubt, since order may differ."""
    a, b = source.shape, target.shape
    if not changed or len(a) != len(b) or not a or a[1:] != b[1:] or (a[0], b[0]) not in changed:
        return None
    text = f"vocabulary {a[0]} -> {b[0]}: the first {min(a[0], b[0])} rows may be the same tokens"
    if a[0] < b[0]:
        text += " (allow it with grow_rows=)"
        return Fit((), text, rows=Rows(0, tuple(range(a[0]))), certainty=Certainty.DOUBT, rule=Ground.GROWN_ROWS)
    text += (
        f", and the model has no row for the last {a[0] - b[0]}; make its table {a[0]} rows long, or name the tokens of both "
        "sides with axis_names="
    )
    return Fit((SliceDim(0, 0, b[0], a[0]),), text, certainty=Certainty.DOUBT, rule=Ground.CUT_ROWS)
