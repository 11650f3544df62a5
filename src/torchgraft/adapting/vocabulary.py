"""Vocabularies that grew at their end: proposed as a reading, never taken unasked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchgraft.adapting.fit import Fit
from torchgraft.core.names import words
from torchgraft.core.plan import Certainty, Rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torchgraft.core.match import Leaf, Match

TABLE_WORDS = frozenset({"wte", "tok", "token", "tokens", "word", "words", "vocab", "shared"})


def grown_vocabularies(matches: Iterable[Match]) -> frozenset[tuple[int, int]]:
    """Return (rows in the file, rows in the model) of token tables that have more rows in the model."""
    return frozenset(
        (m.source.shape[0], m.target.shape[0])
        for m in matches
        if len(m.source.shape) == len(m.target.shape) == 2
        and m.source.shape[1] == m.target.shape[1]
        and m.source.shape[0] < m.target.shape[0]
        and TABLE_WORDS & set(words(m.target.owner.rpartition(".")[2]))
    )


def vocabulary_fit(source: Leaf, target: Leaf, grown: frozenset[tuple[int, int]]) -> Fit | None:
    """Return the reading of a table, output layer or its bias whose rows are tokens; doubt, since order may differ."""
    a, b = source.shape, target.shape
    if not grown or len(a) != len(b) or not a or a[1:] != b[1:] or (a[0], b[0]) not in grown:
        return None
    text = f"vocabulary {a[0]} -> {b[0]}: the first {a[0]} rows may be the same tokens (allow it with grow_rows=)"
    return Fit((), text, rows=Rows(0, tuple(range(a[0]))), certainty=Certainty.DOUBT, rule="grown rows")
