"""Many names as few patterns: `layers.{0-11}.attn.{weight,bias}`, only where everything said of them is equal.

Each row is a name, the names that go with it (where it comes from, what else it could come from), and the facts that
will be printed. Rows fold when their facts and their names, numbers aside, are equal; the numbers in braces are read
in step: `blocks.{0-2}.w <- layers.{0,5,11}.w` says that block 1 comes from layer 5. Every fold can be expanded into
exactly the rows that it was made of (names are unique). Time is linear in the number of rows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain, product
from math import prod
from os.path import commonprefix
from typing import NamedTuple

from torchgraft.core.formatting import runs
from torchgraft.core.system.fast_objects import collector_paused

# A run of digits that reads back as it was written: no leading zero, and short enough for a layer number.
_NUMBER = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,8})(?![0-9])")
MOST_NUMBERS = 16  # of a name that are folded; what stands behind them is text
MOST_NAMES = 6
MOST_PIECES = 16

Texts = tuple[str, ...]
# A shape, or what several have in common: each dimension's size, or the sizes that it has among them in words.
Sizes = tuple[int | str, ...]
Numbers = tuple[int, ...]
# The values of one number of the names of a grid, each with the numbers that follow it: ((0, 0), (1, 5)).
Cell = tuple[Numbers, ...]


class Row(NamedTuple):
    """One tensor to list: its name, groups of names that go with it, its shape, and the facts shown with it.

    `sentences` tell about it; numbers in them that follow those of the name fold as well. `weight` is how many
    tensors the row stands for.
    """

    name: str
    related: tuple[tuple[str, ...], ...] = ()
    sentences: tuple[str, ...] = ()
    shape: Sizes | None = None
    facts: Hashable = ()
    numel: int = 0
    weight: int = 1


class Hole(NamedTuple):
    """Where a number stands in a text: the one in `column` of the name's number at `place`, 0 being that number itself."""

    place: int
    column: int


Template = tuple[str | Hole, ...]


class Figures(NamedTuple):
    """Elements, tensors, and the place of the first row."""

    numel: int
    tensors: int
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Rows of equal facts under one pattern.

    `templates` are those of the name, of each related name, in `groups` of so many, and of each sentence; `cells` has what
    stands in their holes, an entry for each number of the name. `leaves` are last segments: (of the name, of each related
    name), with `shapes` beside them. `count` is the number of tensors, `first` the place of the first row.
    """

    templates: tuple[Template, ...]
    groups: tuple[int, ...]
    cells: tuple[Cell, ...]
    leaves: tuple[Texts, ...]
    shapes: tuple[Sizes | None, ...]
    facts: Hashable
    numel: int
    count: int
    first: int

    @property
    def pattern(self) -> str:
        """The pattern of the names."""
        return self._pattern_at(0)

    def related(self, group: int) -> tuple[str, ...]:
        """Return the patterns of one group of related names; braces are read in step with those of `pattern`."""
        return tuple(self._pattern_at(at) for at in self._places(group))

    def _places(self, group: int) -> range:
        start = 1 + sum(self.groups[:group])
        return range(start, start + self.groups[group]) if group < len(self.groups) else range(0)

    def follows_pattern(self, group: int) -> bool:
        """Return whether each number of `pattern` has one of its own in a group of related names."""
        return all(self._pattern_at(at) == self._pattern_at(at, once=True) for at in self._places(group))

    def distinct(self, group: int) -> tuple[str, ...]:
        """Return the patterns of a group of related names, each number once: some of these go with some of `pattern`."""
        return tuple(self._pattern_at(at, once=True) for at in self._places(group))

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences, their numbers in step with those of `pattern`."""
        return tuple(self._pattern_at(at) for at in range(1 + sum(self.groups), len(self.templates)))

    def expand(self) -> Iterator[tuple[str, ...]]:
        """Yield the name, all related names, groups joined, and the sentences of each row."""
        for row in product(*self.cells):
            texts = [_filled(one, [[str(n) for n in atom] for atom in row]) for one in self.templates]
            yield from (tuple(map("".join, zip(texts, leaf, strict=True))) for leaf in self.leaves)

    def _pattern_at(self, at: int, *, once: bool = False) -> str:
        columns = [list(zip(*cell, strict=True)) for cell in self.cells]
        shown = [[braced_numbers(sorted(set(numbers)) if once else numbers) for numbers in cell] for cell in columns]
        tails = list(dict.fromkeys(leaf[at] for leaf in self.leaves))
        tail = tails[0] if len(tails) == 1 else "." + braced([t.removeprefix(".") for t in tails])
        return _filled(self.templates[at], shown) + tail


def _filled(template: Template, shown: Sequence[Sequence[str]]) -> str:
    """Return a template with what is shown of the numbers in its holes."""
    return "".join([piece if isinstance(piece, str) else shown[piece.place][piece.column] for piece in template])


@dataclass(slots=True)
class _Family:
    """Rows whose texts, facts and shapes are equal: the first of them, and the numbers and figures of all."""

    row: Row
    texts: tuple[Texts, ...]
    numbers: list[Numbers] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)


def fold(rows: Iterable[Row]) -> list[Fold]:
    """Return the folds of `rows`, in the order of their first rows."""
    families: dict[Hashable, _Family] = {}
    make = tuple.__new__  # half the time of calling Figures
    with collector_paused():
        for order, row in enumerate(rows):
            texts, numbers = _split_row(row)
            key = (texts, row.facts, row.shape, tuple(map(len, row.related)) if row.related else ())
            family = families.get(key)
            if family is None:
                family = families[key] = _Family(row, texts)
            family.numbers.append(numbers)
            family.figures.append(make(Figures, (row.numel, row.weight, order)))
        folds = [one for family in families.values() for one in _folds_of(family)]
        return sorted(_join_leaves(folds), key=lambda f: f.first)


def _split_row(row: Row) -> tuple[tuple[Texts, ...], Numbers]:
    """Return the texts of a row's name, related names and sentences, and all their numbers in order."""
    if not row.related and not row.sentences:
        texts, numbers = _split_numbers(row.name)
        return (texts,), numbers
    cut = [_split_numbers(text) for text in (row.name, *chain.from_iterable(row.related))]
    cut += [_split_numbers_cached(text) for text in row.sentences]
    return tuple([texts for texts, _ in cut]), tuple(chain.from_iterable([numbers for _, numbers in cut]))


def _split_numbers(name: str) -> tuple[Texts, Numbers]:
    """Return what stands between the numbers of a name, and the numbers."""
    pieces = _NUMBER.split(name, MOST_NUMBERS)
    if len(pieces) == 1:
        return (name,), ()
    return tuple(pieces[::2]), tuple(map(int, pieces[1::2]))


_split_numbers_cached = lru_cache(maxsize=4096)(_split_numbers)  # many rows say the same


def _folds_of(family: _Family) -> Iterator[Fold]:
    """Yield the folds of rows that differ only in numbers.

    Each number of a related name or a sentence follows one of the name's (it is a function of it), or is constant in a part
    of the rows.
    """
    columns = list(zip(*family.numbers, strict=True))
    width = len(family.texts[0]) - 1
    own, others = columns[:width], columns[width:]
    from_end = [len(text) - 1 - place for text in family.texts[1:] for place in range(len(text) - 1)]
    leads = [_leading_place(own, values, distance) for values, distance in zip(others, from_end, strict=True)]
    led = [[values for values, lead in zip(others, leads, strict=True) if lead == place] for place in range(width)]
    atoms = [list(zip(values, *more, strict=True)) for values, more in zip(own, led, strict=True)]
    rows = list(zip(*atoms, strict=True)) if atoms else [()] * len(family.figures)
    constant = [values for values, lead in zip(others, leads, strict=True) if lead is None]
    parts: dict[Numbers, list[int]] = defaultdict(list)
    for at, fixed in enumerate(zip(*constant, strict=True) if constant else [()] * len(rows)):
        parts[fixed].append(at)
    for fixed, inside in parts.items():
        templates = _templates(family.texts, leads, fixed)
        for cells, figures in _grids([rows[at] for at in inside], [family.figures[at] for at in inside]):
            yield Fold(
                templates=templates,
                groups=tuple(map(len, family.row.related)),
                cells=cells,
                leaves=(("",) * len(templates),),
                shapes=(family.row.shape,),
                facts=family.row.facts,
                numel=figures.numel,
                count=figures.tensors,
                first=figures.first,
            )


def _templates(texts: Sequence[Texts], leads: Sequence[int | None], fixed: Numbers) -> tuple[Template, ...]:
    """Return texts with holes for their numbers, each where it is in the cell of the one that leads it; constants are text."""
    columns: dict[int, int] = defaultdict(int)
    holes: list[Hole | str] = [Hole(place, 0) for place in range(len(texts[0]) - 1)]
    constants = iter(fixed)
    for lead in leads:
        if lead is None:
            holes.append(str(next(constants)))
        else:
            columns[lead] += 1
            holes.append(Hole(lead, columns[lead]))
    rest = iter(holes)
    return tuple((text[0], *chain.from_iterable([(next(rest), more) for more in text[1:]])) for text in texts)


def _leading_place(own: Sequence[Numbers], values: Numbers, from_end: int) -> int | None:
    """Return the place in the name whose number decides `values`: at a constant distance if there is such a one.

    `from_end` is how far from its text's end the number stands: of several, the one that stands as far from its own end.
    None where no number of the name does.
    """
    if values.count(values[0]) == len(values):
        return None
    for fits in (_is_equal, _is_shifted, _is_function):
        found = [(abs(len(own) - at - from_end), at) for at, keys in enumerate(own) if fits(keys, values)]
        if found:
            return min(found)[1]
    return None


def _is_equal(keys: Numbers, values: Numbers) -> bool:
    return keys == values


def _is_shifted(keys: Numbers, values: Numbers) -> bool:
    distance = values[0] - keys[0]
    return all(value - key == distance for key, value in zip(keys, values, strict=True))


def _is_function(keys: Numbers, values: Numbers) -> bool:
    known: dict[int, int] = {}
    return all(known.setdefault(key, value) == value for key, value in zip(keys, values, strict=True))


def _grids(
    rows: Sequence[tuple[Numbers, ...]], figures: Sequence[Figures]
) -> Iterator[tuple[tuple[Cell, ...], Figures]]:
    """Yield products of cells that together hold all rows, and no other: cells are joined where all others are equal."""
    whole = tuple([tuple(sorted(set(column))) for column in zip(*rows, strict=True)])
    if prod(map(len, whole)) == len(rows) == len(set(rows)):
        yield whole, _sum(figures)
        return
    held: dict[tuple[Cell, ...], Figures] = {}
    for row, figure in zip(rows, figures, strict=True):
        cells: tuple[Cell, ...] = tuple([(atom,) for atom in row])
        held[cells] = _sum([held[cells], figure]) if cells in held else figure
    for place in reversed(range(len(rows[0]))):
        alike: dict[tuple[Cell, ...], list[tuple[Cell, Figures]]] = defaultdict(list)
        for cells, found in held.items():
            alike[cells[:place] + cells[place + 1 :]].append((cells[place], found))
        held = {
            (*others[:place], tuple(sorted(chain.from_iterable([cell for cell, _ in same]))), *others[place:]): _sum(
                [found for _, found in same]
            )
            for others, same in alike.items()
        }
    yield from held.items()


def _sum(figures: Sequence[Figures]) -> Figures:
    numels, counts, firsts = zip(*figures, strict=True)
    return Figures(sum(numels), sum(counts), min(firsts))


def _join_leaves(folds: Iterable[Fold]) -> Iterator[Fold]:
    """Join folds that differ only in the last segment of their names, `{weight,bias}`, and in shape."""
    grouped: dict[Hashable, list[tuple[Fold, Texts]]] = {}
    for one in folds:
        templates, leaf = _split_leaves(one.templates, 1 + sum(one.groups))
        grouped.setdefault((templates, one.groups, one.cells, one.facts), []).append(
            (replace(one, templates=templates), leaf)
        )
    for members in grouped.values():
        numel, count, first = _sum([Figures(f.numel, f.count, f.first) for f, _ in members])
        leaves, shapes = tuple(leaf for _, leaf in members), tuple(f.shapes[0] for f, _ in members)
        yield replace(members[0][0], leaves=leaves, shapes=shapes, numel=numel, count=count, first=first)


def _split_leaves(templates: tuple[Template, ...], names: int) -> tuple[tuple[Template, ...], Texts]:
    """Return templates without last segments, and these with their dots; unchanged where one has no plain last segment.

    Only the first `names` templates are names, the others are sentences.
    """
    ends = [str(one[-1]).rpartition(".") for one in templates[:names]]
    bare = any(len(one) == 1 and not head for one, (head, _, _) in zip(templates, ends, strict=False))
    if bare or any(not dot for _, dot, _ in ends):
        return templates, ("",) * len(templates)
    owners = [(*one[:-1], head) for one, (head, _, _) in zip(templates, ends, strict=False)]
    return (*owners, *templates[names:]), (*("." + leaf for _, _, leaf in ends), *("",) * (len(templates) - names))


def braced(items: Sequence[str]) -> str:
    """Return `{a,b}`, or the only item."""
    return items[0] if len(items) == 1 else "{" + ",".join(items) + "}"


def braced_numbers(numbers: Sequence[int]) -> str:
    """Return `{0-11}`, `{0,2,5}`, or the only number; more than a few pieces are cut short with an ellipsis."""
    if len(set(numbers)) == 1:
        return str(numbers[0])
    pieces: list[str] = []
    for first, last in runs(numbers):
        pieces += [f"{first}-{last}"] if last > first + 1 else map(str, range(first, last + 1))
    return "{" + ",".join(_cut_short(pieces, MOST_PIECES)) + "}"


def _cut_short(pieces: list[str], most: int) -> list[str]:
    """Return the pieces; of more than `most` the first ones and the last, with an ellipsis between."""
    return pieces if len(pieces) <= most else [*pieces[: most - 1], "…", pieces[-1]]


def factor_names(names: Sequence[str]) -> str:
    """Return several names as one: `layers.{q,k,v}_proj.weight`; joined by ` + ` when they share no whole words.

    One name several times, such as a tensor of each rank, is `2 × up.weight`. Of many names the first and the last are said.
    """
    if len(names) < 2:
        return "".join(names)
    if len(set(names)) == 1:
        return f"{len(names)} × {names[0]}"
    head = _up_to_separator(commonprefix(names))  # noqa: RUF071  # letters are meant
    shortest = min(len(name) for name in names) - len(head)
    tail = commonprefix([name[::-1] for name in names])[::-1]  # noqa: RUF071  # letters are meant
    tail = _up_to_separator(tail[max(0, len(tail) - shortest) :][::-1])[::-1]
    if len(head) + len(tail) < 2:
        return " + ".join(_cut_short(list(names), MOST_NAMES))
    middles = [name[len(head) : len(name) - len(tail)] for name in names]
    flat = all(middle and "{" not in middle for middle in middles)
    return (
        f"{head}{braced(_cut_short(middles, MOST_NAMES))}{tail}"
        if flat
        else " + ".join(_cut_short(list(names), MOST_NAMES))
    )


def _up_to_separator(text: str) -> str:
    """Return `text` up to its last separator outside braces."""
    at = len(text)
    while at and (text[at - 1].isalnum() or text[at - 1] in "{},-"):
        at -= 1
    kept = text[:at]
    return kept if kept.count("{") == kept.count("}") else ""
