"""How alike names are, by their words; units of the same words are compared once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from torchgraft.matching.parts.units import Unit
from torchgraft.matching.tables.dialect import EXCLUSIVE, KINDS, PARTS

if TYPE_CHECKING:
    Words = tuple[str, ...]


_Value = TypeVar("_Value", bound=Hashable)

# What a word weighs at least, and one that nearly all names of a side have: what everything lies in says nothing of its parts.
LEAST, NEARLY_ALL = 0.05, 0.9
# What is taken from the logarithm of how rare a word is, so that one that all names have weighs little.
COMMON = 0.6
# How much less a word weighs for each that comes behind it, and how much it keeps at least.
STEP_BACK, FARTHEST = 0.15, 0.35
# A word for norms: what a norm alone may be called.
NORMS = frozenset({"norm"})


class Wording:
    """The words of both sides: matrices of what they say for each pair (rows: sources, columns: targets)."""

    def __init__(self, sources: Sequence[Unit], targets: Sequence[Unit], *, kinds: bool = True) -> None:
        ours, theirs = (_counts(units, kinds=kinds) for units in (sources, targets))
        counts, total = ours + theirs, sum(unit.weight for unit in (*sources, *targets))
        idle = _in_nearly_all(sources, ours) | _in_nearly_all(targets, theirs)
        self._idf = {
            w: LEAST if w in idle else max(float(np.log(1.0 + total / n)) - COMMON, LEAST) for w, n in counts.items()
        }
        self._at, self._words = zip(
            *(_distinct([_words(u, kinds=kinds) for u in units]) for units in (sources, targets)), strict=True
        )

    def likeness(self) -> np.ndarray:
        """Return the cosine of word bags; rare words weigh more, and words near the end of a name more than others."""
        return self._spread(self._in_common(self._weighted))

    def shared(self) -> np.ndarray:
        """Return the number of words that both names hold; a number counts with the word before it."""
        return self._spread(self._in_common(_telling_once, normed=False))

    def clash(self) -> np.ndarray:
        """Return where names carry words that exclude each other."""
        clash = np.zeros((len(self._words[0]), len(self._words[1])), bool)
        for exclusive in EXCLUSIVE:
            (rows, ours), (columns, theirs) = (
                _distinct([exclusive.intersection(words) for words in side]) for side in self._words
            )
            said = np.array([[bool(a and b and not a & b) for b in theirs] for a in ours], bool)
            if said.any():
                clash |= said[np.ix_(rows, columns)]
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
        return (
            (word, self._idf[word] * max(FARTHEST, 1.0 - STEP_BACK * back)) for back, word in enumerate(reversed(words))
        )

    def _in_common(self, of: Callable[[Words], Iterable[tuple[str, float]]], *, normed: bool = True) -> np.ndarray:
        """Return for each two names the sum of the products of what `of` says of each word, with `normed` of sides of length 1.

        A word at a time: most words are in few names, and a column for each word of a large model would take more memory than
        all the rest.
        """
        ours, theirs = (_by_word(map(of, side), len(side), normed=normed) for side in self._words)
        found = np.zeros((len(self._words[0]), len(self._words[1])))
        for word, (rows, left) in ours.items():
            if word in theirs:
                columns, right = theirs[word]
                found[np.ix_(rows, columns)] += np.multiply.outer(left, right)
        return found.astype(np.float32)

    def _spread(self, distinct: np.ndarray) -> np.ndarray:
        return distinct[np.ix_(*self._at)]


def says_kind(unit: Unit) -> bool:
    """Return whether a name says what kind of layer it is of, as its shapes do as well: `conv`, `fc`, `norm`."""
    return not _kinds(unit).isdisjoint(unit.words)


def _kinds(unit: Unit) -> frozenset[str]:
    """Return the words that say no more of a layer than its shapes do: a vector alone may be that of a norm, or a scale."""
    weight = unit.leaves.get("weight")
    if weight is not None and len(weight.shape) > 1:
        return KINDS
    return NORMS if len(unit.leaves) > 1 else frozenset()


def _words(unit: Unit, *, kinds: bool) -> Words:
    """Return the words of a name; without `kinds` those for kinds of layers are set aside."""
    return unit.words if kinds else tuple(word for word in unit.words if word not in _kinds(unit))


def _counts(units: Sequence[Unit], *, kinds: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    for unit in units:
        counts.update(dict.fromkeys(_words(unit, kinds=kinds), unit.weight))
    return counts


def _in_nearly_all(units: Sequence[Unit], counts: Counter[str]) -> set[str]:
    total = sum(unit.weight for unit in units)
    return {word for word, count in counts.items() if count >= NEARLY_ALL * total}


def _distinct(values: Iterable[_Value]) -> tuple[list[int], list[_Value]]:
    """Return for each value its number among the distinct ones, and these."""
    ids: dict[_Value, int] = {}
    at = [ids.setdefault(one, len(ids)) for one in values]
    return at, list(ids)


def _by_word(
    names: Iterable[Iterable[tuple[str, float]]], count: int, *, normed: bool
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each word the names that have it, by number, and what is said of it there."""
    said: dict[str, dict[int, float]] = {}
    squares = np.zeros(count)
    for at, found in enumerate(names):
        own: dict[str, float] = {}
        for word, value in found:
            own[word] = own.get(word, 0.0) + value
        squares[at] = sum(value * value for value in own.values())
        for word, value in own.items():
            said.setdefault(word, {})[at] = value
    length = np.maximum(np.sqrt(squares), 1e-9) if normed else np.ones(count)
    table = {word: (np.array([*held]), np.array([*held.values()])) for word, held in said.items()}
    return {word: (rows, values / length[rows]) for word, (rows, values) in table.items()}


def _telling_once(words: Words) -> Iterator[tuple[str, float]]:
    return ((word, 1.0) for word in _telling(words))


def _telling(words: Words) -> set[str]:
    """Return the words of a name, numbers joined to the word before them, list positions left out."""
    out = {word for word in words if word[0] not in "#@"}
    return out | {before + word for before, word in pairwise(words) if word[0] == "@" and before[0] not in "#@"}
