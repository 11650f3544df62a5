"""Rows that differ in numbers only, as few grids of numbers: each grid is a product of cells that holds just these rows.

A row is the numbers of its name, of its related names and of its sentences. Each number of the latter two follows one of
the name's (it is a function of it), or is constant in a part of the rows. A *cell* has the values of one number of the
name, each with the numbers that follow it: `blocks.0 <- layers.0` and `blocks.1 <- layers.5` are one grid with the cell
((0, 0), (1, 5)). Time is linear in the number of rows.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from math import prod
from typing import NamedTuple

CONSTANT = -1
OWN = -2

Numbers = tuple[int, ...]
Cell = tuple[Numbers, ...]


class Tally(NamedTuple):
    """Elements, tensors, and the place of the first row."""

    numel: int
    tensors: int
    first: int


class RowFamily:
    """Rows whose texts are equal. `widths` says how many numbers the name has, each related name, each sentence."""

    __slots__ = ("numbers", "numels", "orders", "weights", "widths")

    def __init__(self, widths: Numbers) -> None:
        self.widths = widths
        self.numbers: list[Numbers] = []
        self.numels: list[int] = []
        self.weights: list[int] = []
        self.orders = array("Q")

    def parts(self) -> Iterator[Columns]:
        """Yield the rows by the numbers that no number of the name decides."""
        columns = list(zip(*self.numbers, strict=True))
        own, others = columns[: self.widths[0]], columns[self.widths[0] :]
        from_end = [width - place for width in self.widths[1:] for place in range(width)]
        follows = [_leading_place(own, values, distance) for values, distance in zip(others, from_end, strict=True)]
        led = [[v for v, link in zip(others, follows, strict=True) if link == place] for place in range(len(own))]
        atoms = [list(zip(values, *more, strict=True)) for values, more in zip(own, led, strict=True)]
        links = self._by_text(follows)
        constant = [link == CONSTANT for link in follows]
        if not any(constant):
            spread = self._by_text([OWN] * len(follows))
            yield Columns(atoms, self.numels, self.weights, self.orders, links=links, fixed=spread)
            return
        where: defaultdict[Numbers, list[int]] = defaultdict(list)
        for at, fixed in enumerate(zip(*compress(others, constant), strict=True)):
            where[fixed].append(at)
        for fixed, rows in where.items():
            values = iter(fixed)
            spread = self._by_text([next(values) if one else OWN for one in constant])
            atoms_of_rows = [[column[at] for at in rows] for column in atoms]
            numels, weights, orders = (
                [column[at] for at in rows] for column in (self.numels, self.weights, self.orders)
            )
            yield Columns(atoms_of_rows, numels, weights, orders, links=links, fixed=spread)

    def _by_text(self, values: Sequence[int]) -> tuple[Numbers, ...]:
        """Return one value for each number that isn't the name's, text by text."""
        rest = iter(values)
        return tuple(tuple(next(rest) for _ in range(width)) for width in self.widths[1:])


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows in columns: one of atoms, (number, numbers that follow it), for each place of the name, and what they count.

    `links` says for each number that isn't the name's which place it follows, `fixed` what it is where it is constant.
    """

    atoms: Sequence[Sequence[Numbers]]
    numels: Sequence[int]
    weights: Sequence[int]
    orders: Sequence[int]
    links: tuple[Numbers, ...]
    fixed: tuple[Numbers, ...]

    def grids(self) -> Iterator[tuple[tuple[Cell, ...], Tally]]:
        """Yield grids of cells that together hold all rows, and no other."""
        whole = tuple([tuple(sorted(set(column))) for column in self.atoms])
        count = len(self.numels)
        if prod(map(len, whole)) == count and len(set(zip(*self.atoms, strict=True))) in (count, 0):
            yield whole, Tally(sum(self.numels), sum(self.weights), min(self.orders))
            return
        found: dict[tuple[Numbers, ...], Tally] = {}
        for row, *tally in zip(self._rows(), self.numels, self.weights, self.orders, strict=True):
            before = found.get(row)
            found[row] = Tally(*tally) if before is None else _sum_tallies([before, Tally(*tally)])
        grids = [_Grid.of(row, tally) for row, tally in found.items()]
        for place in reversed(range(len(self.atoms))):
            grids = _merge_at(grids, place)
        yield from ((grid.cells, grid.tally) for grid in grids)

    def _rows(self) -> Iterable[tuple[Numbers, ...]]:
        return zip(*self.atoms, strict=True) if self.atoms else [()] * len(self.numels)


@dataclass(slots=True)
class _Grid:
    """A grid that grows. `marks` are hashes of its cells and `total` is their sum: what is left without one of them."""

    cells: tuple[Cell, ...]
    marks: list[int]
    total: int
    tally: Tally

    @classmethod
    def of(cls, row: tuple[Numbers, ...], tally: Tally) -> _Grid:
        """Return the grid of a single row."""
        cells = tuple([(atom,) for atom in row])
        marks = [hash((place, cell)) for place, cell in enumerate(cells)]
        return cls(cells, marks, sum(marks), tally)

    def rest(self, place: int) -> tuple[Cell, ...]:
        """Return the cells of all other places."""
        return (*self.cells[:place], *self.cells[place + 1 :])


def _merge_at(grids: list[_Grid], place: int) -> list[_Grid]:
    """Join cells at one place: grids that agree in all other places become one.

    They are looked for by the sums of their hashes: with dozens of places, comparing all others for each of them
    would take a time that grows with the square of their number.
    """
    alike: defaultdict[int, list[_Grid]] = defaultdict(list)
    for grid in grids:
        alike[grid.total - grid.marks[place]].append(grid)
    if len(alike) == len(grids):
        return grids
    out: list[_Grid] = []
    for found in alike.values():
        same: defaultdict[tuple[Cell, ...], list[_Grid]] = defaultdict(list)
        for grid in found if len(found) > 1 else ():
            same[grid.rest(place)].append(grid)
        out += [_merge(members, place) for members in same.values()] if same else found
    return out


def _merge(members: list[_Grid], place: int) -> _Grid:
    """Return one grid for those that differ at one place only."""
    if len(members) == 1:
        return members[0]
    first = members[0]
    cell = tuple(sorted(chain.from_iterable([grid.cells[place] for grid in members])))
    mark = hash((place, cell))
    first.total += mark - first.marks[place]
    first.marks[place] = mark
    first.cells = (*first.cells[:place], cell, *first.cells[place + 1 :])
    first.tally = _sum_tallies([grid.tally for grid in members])
    return first


def _sum_tallies(tallies: Sequence[Tally]) -> Tally:
    numels, tensors, firsts = zip(*tallies, strict=True)
    return Tally(sum(numels), sum(tensors), min(firsts))


def _leading_place(own: Sequence[Numbers], values: Numbers, from_end: int) -> int:
    """Return the place in the name whose number decides `values`: at a constant distance if there is such a one.

    `from_end` is how far from its text's end the number stands: of several, the one that stands as far from its own end.
    """
    if values.count(values[0]) == len(values):
        return CONSTANT
    for fits in (_is_equal, _is_shifted, _is_function):
        found = [(abs(len(own) - at - from_end), at) for at, keys in enumerate(own) if fits(keys, values)]
        if found:
            return min(found)[1]
    return CONSTANT


def _is_equal(keys: Numbers, values: Numbers) -> bool:
    return keys == values


def _is_shifted(keys: Numbers, values: Numbers) -> bool:
    distance = values[0] - keys[0]
    return all(value - key == distance for key, value in zip(keys, values, strict=True))


def _is_function(keys: Numbers, values: Numbers) -> bool:
    known: dict[int, int] = {}
    return all(known.setdefault(key, value) == value for key, value in zip(keys, values, strict=True))
