"""Vocabularies that grew or shrank a little at their end: proposed as a reading, never taken unasked."""

from __future__ import annotations

from collections.abc import Iterable

from torchgraft.adapting.fit import Fit
from torchgraft.core.match import Leaf, Match
from torchgraft.core.names import words
from torchgraft.core.plan import Certainty, Rows
from torchgraft.ops import SliceDim

TABLE_WORDS = frozenset({"wte", "tok", "token", "tokens", "word", "words", "vocab", "shared"})
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
            if TABLE_WORDS & set(words(m.target.owner.rpartition(".")[2])):
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
        return Fit((), text, rows=Rows(0, tuple(range(a[0]))), certainty=Certainty.DOUBT, rule="grown rows")
    text += (
        f", and the model has no row for the last {a[0] - b[0]}; make its table {a[0]} rows long, or leave these out with "
        f"axis_names={{...: AxisNames(range({a[0]}), range({b[0]}))}}"
    )
    return Fit((SliceDim(0, 0, b[0], a[0]),), text, certainty=Certainty.DOUBT, rule="cut rows")
