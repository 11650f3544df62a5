"""How alike names are, by their words; units of the same words are compared once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from torchgraft.matching.parts.units import Unit
from torchgraft.matching.tables.dialect import EXCLUSIVE, PARTS

if TYPE_CHECKING:
    Words = tuple[str, ...]


# What a word weighs at least, and one that nearly all names of a side have: what everything lies in says nothing of its parts.
LEAST, NEARLY_ALL = 0.05, 0.9


class Wording:
    """The words of both sides: matrices of what they say for each pair (rows: sources, columns: targets)."""

    def __init__(self, sources: Sequence[Unit], targets: Sequence[Unit]) -> None:
        ours, theirs = (_counts(units) for units in (sources, targets))
        counts, total = ours + theirs, sum(unit.weight for unit in (*sources, *targets))
        idle = _in_nearly_all(sources, ours) | _in_nearly_all(targets, theirs)
        self._idf = {
            w: LEAST if w in idle else max(float(np.log(1.0 + total / n)) - 0.6, LEAST) for w, n in counts.items()
        }
        self._at, self._words = zip(*(_distinct([u.words for u in units]) for units in (sources, targets)), strict=True)

    def likeness(self) -> np.ndarray:
        """Return the cosine of word bags; rare words weigh more, and words near the end of a name more than others."""
        left, right = self._table(self._weighted)
        sides = [side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9) for side in (left, right)]
        return self._spread((sides[0] @ sides[1].T).astype(np.float32))

    def shared(self) -> np.ndarray:
        """Return the number of words that both names hold; a number counts with the word before it."""
        left, right = self._table(lambda words: ((word, 1.0) for word in _telling(words)))
        return self._spread((left @ right.T).astype(np.float32))

    def clash(self) -> np.ndarray:
        """Return where names carry words that exclude each other."""
        clash = np.zeros((len(self._words[0]), len(self._words[1])), bool)
        for exclusive in EXCLUSIVE:
            ours, theirs = ([exclusive.intersection(words) for words in side] for side in self._words)
            clash |= np.array([[bool(a and b and not a & b) for b in theirs] for a in ours], bool).reshape(clash.shape)
        return self._spread(clash)

    def parts_agree(self) -> np.ndarray:
        """Return where names carry the same words for parts: `attn.norm` and `attention.layer_norm`, not `norm1`."""
        ids: dict[frozenset[str], int] = {}
        ours, theirs = (
            np.array([ids.setdefault(PARTS.intersection(words), len(ids)) for words in side], int)
            for side in self._words
        )
        return self._spread(ours[:, None] == theirs)

    def _weighted(self, words: Words) -> Iterable[tuple[str, float]]:
        return ((word, self._idf[word] * max(0.35, 1.0 - 0.15 * back)) for back, word in enumerate(reversed(words)))

    def _table(self, of: Callable[[Words], Iterable[tuple[str, float]]]) -> tuple[np.ndarray, np.ndarray]:
        """Return for each side the sums of what `of` gives the words: a row for each name, a column for each word."""
        said = [[list(of(words)) for words in side] for side in self._words]
        column = {w: n for n, w in enumerate(dict.fromkeys(w for side in said for row in side for w, _ in row))}
        tables = [np.zeros((len(side), len(column))) for side in said]
        for table, side in zip(tables, said, strict=True):
            for row, found in enumerate(side):
                for word, value in found:
                    table[row, column[word]] += value
        return tables[0], tables[1]

    def _spread(self, distinct: np.ndarray) -> np.ndarray:
        return distinct[np.ix_(*self._at)]


def _counts(units: Sequence[Unit]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for unit in units:
        counts.update(dict.fromkeys(unit.words, unit.weight))
    return counts


def _in_nearly_all(units: Sequence[Unit], counts: Counter[str]) -> set[str]:
    total = sum(unit.weight for unit in units)
    return {word for word, count in counts.items() if count >= NEARLY_ALL * total}


def _distinct(words: Sequence[Words]) -> tuple[list[int], list[Words]]:
    """Return for each name the number of its words among the distinct ones, and these."""
    ids: dict[Words, int] = {}
    at = [ids.setdefault(one, len(ids)) for one in words]
    return at, list(ids)


def _telling(words: Words) -> set[str]:
    """Return the words of a name, numbers joined to the word before them, list positions left out."""
    out = {word for word in words if word[0] not in "#@"}
    return out | {before + word for before, word in pairwise(words) if word[0] == "@" and before[0] not in "#@"}
