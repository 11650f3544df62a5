"""Which units names and pairs leave unmatched, counted once: with a thousand layers in a list, each pair can't ask all others."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torchgraft.matching.evidence.order import Order
from torchgraft.matching.evidence.scores import Evidence
from torchgraft.matching.names.lists import place_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Openings:
    """Units that names or pairs leave unmatched; arrays have one entry per unit of their side, (sources, targets)."""

    fits: np.ndarray  # which units have the same shapes
    uneven: np.ndarray  # of which two only one has a bias
    named: Mapping[int, int]
    unnamed: tuple[np.ndarray, np.ndarray]  # no equal name leads to one of the same shapes
    unpaired: tuple[np.ndarray, np.ndarray]
    regions: tuple[np.ndarray, np.ndarray]  # the part of the network, as a number
    rows: tuple[np.ndarray, np.ndarray]  # the list that a unit is a member of, as a number; -1 for none
    runs: tuple[np.ndarray, np.ndarray]  # the run of equal shapes that it stands in, as a number
    misled: frozenset[int]  # source regions in which a name leads to other shapes
    broken: frozenset[int]  # source rows in which one does
    open_rows: tuple[frozenset[int], frozenset[int]]  # rows with a unit without a partner of equal name
    places: Sequence[str]  # the paths of the targets, numbers set aside

    def is_unquestioned(self, i: int, j: int) -> bool:
        """Return whether a pair of equal name has no other reading in its part of the network.

        It has one where a source and a target of the same shapes are both unmatched by name. Where some equal names lead to
        other shapes, one of the two is enough: a layer may have been inserted or moved, so that numbers mean other layers.
        """
        if self._is_outdone(i, j):
            return False
        ours, theirs = self.regions
        sources = bool((self.fits[:, j] & self.unnamed[0] & (ours == ours[i])).any())
        targets = bool((self.fits[i] & self.unnamed[1] & (theirs == theirs[j])).any())
        return not (sources or targets) if int(ours[i]) in self.misled else not (sources and targets)

    def leaves_its_place(self, i: int, j: int) -> bool:
        """Return whether `i` goes to `j` while the target of its own name stays unmatched, and fits or has another path without numbers."""
        place = self.named.get(i, j)
        if place == j or not self.unpaired[1][place]:
            return False
        return bool(self.fits[i, place]) or self.places[place] != self.places[j]

    def is_adjoined(self, i: int, j: int) -> bool:
        """Return whether the numbers of a list have shifted and a neighbour of the same shapes would do as well.

        Where a layer was inserted into a run of equal layers, or removed from one, only values tell which of them it was. The
        same holds where one of the two has a bias and the other hasn't, and an unmatched member of the list agrees in that.
        """
        if self._is_outdone(i, j):
            return True
        return self._has_shifted(i, j) and (self._has_like(0, i, self.fits[:, j]) or self._has_like(1, j, self.fits[i]))

    def _has_shifted(self, i: int, j: int) -> bool:
        if self.named.get(i) != j:
            return True
        ours, theirs = int(self.rows[0][i]), int(self.rows[1][j])
        return ours in self.broken or (ours in self.open_rows[0] and theirs in self.open_rows[1])

    def _is_outdone(self, i: int, j: int) -> bool:
        """Return whether the two differ in having a bias, and an unmatched member of the list doesn't."""
        return bool(self.uneven[i, j]) and (self._has_even(0, i, j) or self._has_even(1, j, i))

    def _has_even(self, side: int, at: int, other: int) -> bool:
        """Return whether an unmatched member of the list of the unit `at` fits the other unit, bias or no bias included."""
        line = (slice(None), other) if side == 0 else (other, slice(None))
        return self._is_in_row(side, at, self.fits[line] & ~self.uneven[line])

    def _is_in_row(self, side: int, at: int, some: np.ndarray) -> bool:
        rows = self.rows[side]
        return bool(rows[at] >= 0 and (some & self.unpaired[side] & (rows == rows[at])).any())

    def _has_like(self, side: int, at: int, fitting: np.ndarray) -> bool:
        """Return whether an unmatched unit that fits is in the same list, and in the same run of equal shapes, as the unit `at`."""
        runs = self.runs[side]
        return self._is_in_row(side, at, fitting & (runs == runs[at]))


def openings(
    pairs: Iterable[tuple[int, int]],
    named: Mapping[int, int],
    evidence: Evidence,
    regions: tuple[Sequence[str], Sequence[str]],
    sequences: tuple[Order, Order],
) -> Openings:
    """Return what `named` (pairs of equal name) and `pairs` leave over of two sides."""
    fits = evidence.fits.astype(bool)
    sure = {a: b for a, b in named.items() if fits[a, b]}
    taken, used = list(zip(*pairs, strict=True)) or [(), ()], set(named.values())
    places = (_numbered(regions[0]), _numbered(regions[1]))
    rows = (_numbered(sequences[0].rows), _numbered(sequences[1].rows))
    misled = [a for a in named if a not in sure]
    unnamed = [a for a in range(fits.shape[0]) if a not in named], [b for b in range(fits.shape[1]) if b not in used]
    return Openings(
        fits=fits,
        uneven=evidence.uneven,
        named=named,
        unnamed=(_all_but(sure, fits.shape[0]), _all_but(sure.values(), fits.shape[1])),
        unpaired=(_all_but(taken[0], fits.shape[0]), _all_but(taken[1], fits.shape[1])),
        regions=places,
        rows=rows,
        runs=(np.array(sequences[0].changes, int), np.array(sequences[1].changes, int)),
        misled=frozenset(places[0][misled].tolist()),
        broken=frozenset(rows[0][misled].tolist()) - {-1},
        open_rows=(frozenset(rows[0][unnamed[0]].tolist()) - {-1}, frozenset(rows[1][unnamed[1]].tolist()) - {-1}),
        places=[place_of(".".join(path)) for path in sequences[1].segments],
    )


def _numbered(values: Iterable[Hashable]) -> np.ndarray:
    """Return a number for each value, equal where they are; -1 for None."""
    ids: dict[Hashable, int] = {None: -1}
    return np.array([ids.setdefault(value, len(ids)) for value in values], int)


def _all_but(numbers: Collection[int], count: int) -> np.ndarray:
    found = np.ones(count, bool)
    found[list(numbers)] = False
    return found
