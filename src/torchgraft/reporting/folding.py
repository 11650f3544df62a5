"""Many names as few patterns: `layers.{0-11}.attn.{weight,bias}`, only where everything said of them is equal.

Each row is a name, the names that go with it (where it comes from, what else it could come from), and the facts that
will be printed. Rows fold when their facts and their names, numbers aside, are equal; the numbers in braces are read
in step: `blocks.{0-2}.w <- layers.{0,5,11}.w` says that block 1 comes from layer 5. Every fold can be expanded into
exactly the rows that it was made of (names are unique). Time is linear in the number of rows.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, product
from typing import NamedTuple

from torchgraft.core.specs import Shape
from torchgraft.core.system.objects import collector_paused
from torchgraft.reporting.number_grids import CONSTANT, Cell, Numbers, RowFamily

# A run of digits that reads back as it was written: no leading zero, and short enough for a layer number.
_NUMBER = re.compile(r"(?<![0-9])(0|[1-9][0-9]{0,8})(?![0-9])")
MOST_PIECES = 16

Texts = tuple[str, ...]


class Row(NamedTuple):
    """One tensor to list: its name, groups of names that go with it, its shape, and the facts shown with it.

    `sentences` tell about it; numbers in them that follow those of the name fold as well. `weight` is how many
    tensors the row stands for.
    """

    name: str
    related: tuple[tuple[str, ...], ...] = ()
    sentences: tuple[str, ...] = ()
    shape: Shape | None = None
    facts: Hashable = ()
    numel: int = 0
    weight: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Rows of equal facts under one pattern.

    `texts` holds, for the name, each related name and each sentence, what stands between its numbers. `cells` holds one entry
    per number of the name: tuples of (number, numbers of related names that follow it). `links` says for each number
    of a related name which number of the name it follows, or that it is constant (then `fixed` has it). `leaves` are
    last segments: (of the name, of each related name), with `shapes` beside them. `count` is the number of tensors,
    `first` the place of the first row.
    """

    texts: tuple[Texts, ...]
    groups: tuple[int, ...]
    cells: tuple[Cell, ...]
    links: tuple[Numbers, ...]
    fixed: tuple[Numbers, ...]
    leaves: tuple[Texts, ...]
    shapes: tuple[Shape | None, ...]
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
        return tuple(self._pattern_at(at) for at in range(1 + sum(self.groups), len(self.texts)))

    def expand(self) -> Iterator[tuple[str, ...]]:
        """Yield the name, all related names, groups joined, and the sentences of each row."""
        for combination in product(*self.cells):
            for leaf in self.leaves:
                yield tuple(self._expand_one(at, combination, leaf) for at in range(len(self.texts)))

    def _expand_one(self, at: int, combination: Sequence[Numbers], leaf: Texts) -> str:
        numbers = [str(self._number(at, place, combination)) for place in range(len(self.texts[at]) - 1)]
        return _interleave(self.texts[at], numbers) + leaf[at]

    def _number(self, at: int, place: int, combination: Sequence[Numbers]) -> int:
        if at == 0:
            return combination[place][0]
        follows = self.links[at - 1][place]
        if follows == CONSTANT:
            return self.fixed[at - 1][place]
        return combination[follows][_column(self.links, at - 1, place)]

    def _pattern_at(self, at: int, *, once: bool = False) -> str:
        sets = []
        for place in range(len(self.texts[at]) - 1):
            follows = place if at == 0 else self.links[at - 1][place]
            if follows == CONSTANT:
                sets.append(str(self.fixed[at - 1][place]))
            else:
                column = 0 if at == 0 else _column(self.links, at - 1, place)
                numbers = [cell[column] for cell in self.cells[follows]]
                sets.append(braced_numbers(sorted(set(numbers)) if once else numbers))
        tails = list(dict.fromkeys(leaf[at] for leaf in self.leaves))
        tail = tails[0] if len(tails) == 1 else "." + braced([t.removeprefix(".") for t in tails])
        return _interleave(self.texts[at], sets) + tail


def fold(rows: Iterable[Row]) -> list[Fold]:
    """Return the folds of `rows`, in the order of their first rows."""
    families: dict[tuple[tuple[Texts, ...], Hashable, Shape | None, Numbers], RowFamily] = {}
    firsts: list[Row] = []
    with collector_paused():
        for order, row in enumerate(rows):
            texts, numbers = _split_row(row)
            key = (texts, row.facts, row.shape, tuple(map(len, row.related)) if row.related else ())
            family = families.get(key)
            if family is None:
                family = families[key] = RowFamily(tuple([len(text) - 1 for text in texts]))
                firsts.append(row)
            family.numbers.append(numbers)
            family.numels.append(row.numel)
            family.weights.append(row.weight)
            family.orders.append(order)
        folds = [
            one
            for (texts, *_), family, row in zip(families, families.values(), firsts, strict=True)
            for one in _folds_of(texts, family, row)
        ]
        return sorted(_join_leaves(folds), key=lambda f: f.first)


def _split_row(row: Row) -> tuple[tuple[Texts, ...], Numbers]:
    """Return the texts of a row's name, related names and sentences, and all their numbers in order."""
    if not row.related and not row.sentences:
        texts, numbers = _split_numbers(row.name)
        return (texts,), numbers
    cut = [_split_numbers(text) for text in (row.name, *chain.from_iterable(row.related))]
    cut += [_split_numbers_cached(text) for text in row.sentences]
    return tuple([texts for texts, _ in cut]), tuple(chain.from_iterable([numbers for _, numbers in cut]))


def braced(items: Sequence[str]) -> str:
    """Return `{a,b}`, or the only item."""
    return items[0] if len(items) == 1 else "{" + ",".join(items) + "}"


def braced_numbers(numbers: Sequence[int]) -> str:
    """Return `{0-11}`, `{0,2,5}`, or the only number; more than a few pieces are cut short with an ellipsis."""
    if len(set(numbers)) == 1:
        return str(numbers[0])
    pieces: list[str] = []
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            run = numbers[start:at]
            pieces.extend([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))
            start = at
    if len(pieces) > MOST_PIECES:
        pieces = [*pieces[: MOST_PIECES - 1], "…", pieces[-1]]
    return "{" + ",".join(pieces) + "}"


def factor_names(names: Sequence[str]) -> str:
    """Return several names as one: `layers.{q,k,v}_proj.weight`; joined by ` + ` when they share no whole words.

    One name several times, such as a tensor of each rank, is `2 × up.weight`.
    """
    if len(names) < 2:
        return "".join(names)
    if len(set(names)) == 1:
        return f"{len(names)} × {names[0]}"
    first, last = min(names), max(names)
    head = _up_to_separator(_common_start(first, last))
    shortest = min(len(name) for name in names) - len(head)
    tail = names[0]
    for name in names[1:]:
        tail = _common_start(tail[::-1], name[::-1])[::-1]
    tail = _up_to_separator(tail[max(0, len(tail) - shortest) :][::-1])[::-1]
    if len(head) + len(tail) < 2:
        return " + ".join(names)
    middles = [name[len(head) : len(name) - len(tail)] for name in names]
    flat = all(middle and "{" not in middle for middle in middles)
    return f"{head}{braced(middles)}{tail}" if flat else " + ".join(names)


def _common_start(a: str, b: str) -> str:
    """Return the longest common start."""
    at = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        at += 1
    return a[:at]


def _up_to_separator(text: str) -> str:
    """Return `text` up to its last separator outside braces."""
    at = len(text)
    while at and (text[at - 1].isalnum() or text[at - 1] in "{},-"):
        at -= 1
    kept = text[:at]
    return kept if kept.count("{") == kept.count("}") else ""


def _split_numbers(name: str) -> tuple[Texts, Numbers]:
    """Return what stands between the numbers of a name, and the numbers."""
    pieces = _NUMBER.split(name)
    if len(pieces) == 1:
        return (name,), ()
    return tuple(pieces[::2]), tuple(map(int, pieces[1::2]))


_split_numbers_cached = lru_cache(maxsize=4096)(_split_numbers)  # many rows say the same


def _interleave(texts: Texts, numbers: Sequence[str]) -> str:
    return texts[0] + "".join(number + text for number, text in zip(numbers, texts[1:], strict=True))


def _column(links: tuple[Numbers, ...], at: int, place: int) -> int:
    """Return where in a cell the number at (related name `at`, `place`) stands."""
    follows = links[at][place]
    column = 1
    for other, own in enumerate(links[: at + 1]):
        stop = place if other == at else len(own)
        column += sum(link == follows for link in own[:stop])
    return column


def _folds_of(texts: tuple[Texts, ...], family: RowFamily, row: Row) -> Iterator[Fold]:
    """Yield the folds of rows that differ only in numbers; `row` is one of them."""
    for part in family.parts():
        for cells, tally in part.grids():
            yield Fold(
                texts=texts,
                groups=tuple(map(len, row.related)),
                cells=cells,
                links=part.links,
                fixed=part.fixed,
                leaves=(("",) * len(texts),),
                shapes=(row.shape,),
                facts=row.facts,
                numel=tally.numel,
                count=tally.tensors,
                first=tally.first,
            )


def _join_leaves(folds: list[Fold]) -> Iterator[Fold]:
    """Join folds that differ only in the last segment of their names, `{weight,bias}`, and in shape."""
    grouped: dict[Hashable, list[tuple[Fold, tuple[Texts, ...], Texts]]] = {}
    for one in folds:
        texts, leaf = _split_leaves(one.texts, 1 + sum(one.groups))
        key = (texts, one.groups, one.cells, one.links, one.fixed, one.facts)
        grouped.setdefault(key, []).append((one, texts, leaf))
    for members in grouped.values():
        one, texts, _ = members[0]
        yield Fold(
            texts=texts,
            groups=one.groups,
            cells=one.cells,
            links=one.links,
            fixed=one.fixed,
            leaves=tuple(leaf for _, _, leaf in members),
            shapes=tuple(f.shapes[0] for f, _, _ in members),
            facts=one.facts,
            numel=sum(f.numel for f, _, _ in members),
            count=sum(f.count for f, _, _ in members),
            first=min(f.first for f, _, _ in members),
        )


def _split_leaves(texts: tuple[Texts, ...], names: int) -> tuple[tuple[Texts, ...], Texts]:
    """Return texts without last segments, and these with their dots; unchanged where one has no plain last segment.

    Only the first `names` texts are names, the others are sentences.
    """
    cut = [text[-1].rpartition(".") for text in texts[:names]]
    bare = any(len(text) == 1 and not head for text, (head, _, _) in zip(texts[:names], cut, strict=True))
    if bare or any(not dot for _, dot, _ in cut):
        return texts, ("",) * len(texts)
    owners = ((*text[:-1], head) for text, (head, _, _) in zip(texts[:names], cut, strict=True))
    return (*owners, *texts[names:]), (*("." + leaf for _, _, leaf in cut), *("",) * (len(texts) - names))
