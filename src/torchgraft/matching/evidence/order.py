"""Both sides as sequences: where units stand in numbered lists, and what stands between them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from torchgraft.core.names import shared_start, words
from torchgraft.matching.names.lists import ListName, counted, list_of, number_of, place_of, stem
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import BARE, Unit, kind_of, shape_class
from torchgraft.matching.tables.dialect import EITHER_END, FIRST, FIRST_NORM, LAST, LAST_NORM

# Share of both sides that must agree in order, end to end, before order counts.
ORDERLY = 0.97

# Letters that stand for numbers where all before them are there, too.
LETTERS = "abcdef"
_NUMBER = re.compile(r"\d+")


class Exchange(NamedTuple):
    """Two units of one list with their numbers swapped.

    `rising`: the first has the lower number. `likes`: the unit that stands for the first at the second's number, and the one
    that stands for the second at the first's number.
    """

    rising: bool
    likes: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The units of one side in file or registration order; each tuple has one entry per unit."""

    segments: tuple[tuple[str, ...], ...]  # their paths, cut at the dots
    index: Mapping[str, int]  # path -> unit
    changes: tuple[int, ...]  # how often the shapes changed up to each
    depths: tuple[int, ...]  # in how many lists each stands
    blocks: tuple[str, ...]  # the innermost member of a list that each stands in
    numbers: tuple[tuple[int, ...], ...]  # its numbers in them, counted from the first of each list
    rows: tuple[ListName | None, ...]  # the list that each is a member of itself
    ends: tuple[int, ...]  # the number in that list
    layers: tuple[object, ...]  # of units of vectors alone (norms): the shapes of the last layer before them
    layers_in: Mapping[tuple[str, ...], int]  # how many layers, or tensors of its own, each module holds
    first_in_lists: int  # the first unit that stands in a list; 0 for none
    last_in_lists: int  # the last one; -1 for none
    root: int  # how many segments in front all paths have in common, and go on behind
    registered: bool  # they come as a model registers them; else, only numbers tell what is before what
    alike: dict[int, Mapping[Hashable, Sequence[int]]] = field(default_factory=dict)  # kept by `_likes`

    @classmethod
    def of(cls, units: Sequence[Unit], *, registered: bool) -> Order:
        """Return the sequence of `units`."""
        kinds = [kind_of(u) for u in units]
        steps = [int(at > 0 and kinds[at] != kinds[at - 1]) for at in range(len(kinds))]
        paths = [u.path for u in units]
        rows = [None if stem(unit.last) is None else list_of(unit.path) for unit in units]
        segments = tuple(tuple(path.split(".")) for path in paths)
        return cls(
            segments=segments,
            index={path: at for at, path in enumerate(paths)},
            changes=tuple(accumulate(steps)),
            depths=tuple(len(u.blocks) for u in units),
            blocks=tuple(u.block for u in units),
            numbers=tuple(counted(paths)),
            rows=tuple(rows),
            ends=tuple(-1 if row is None else number_of(path) for path, row in zip(paths, rows, strict=True)),
            layers=_layers_before(units, kinds),
            layers_in=Counter(around for unit in units if _is_layer(unit) for around in _around(unit)),
            first_in_lists=next((at for at, unit in enumerate(units) if unit.blocks), 0),
            last_in_lists=max((at for at, unit in enumerate(units) if unit.blocks), default=-1),
            root=_root(segments),
            registered=registered,
        )

    def numbered(self, first: int, second: int) -> bool:
        """Return whether two units stand at different numbers of one list, or at different letters of `a`, `b`, `c`."""
        row = self.rows[first]
        if row is not None and row == self.rows[second]:
            return first != second
        return self._number_at(first, second) is not None or self._lettered(first, second)

    def rank(self, first: int, second: int) -> int:
        """Return 1 where the first of two units has higher numbers than the second, -1 where lower ones.

        0 where their paths first differ in more than numbers: `conv4_1` comes behind `conv3_3`, `paf` neither before nor behind
        `heat`. So it is where the words of a list are those that libraries count from either end.
        """
        for a, b in zip(self.segments[first], self.segments[second], strict=False):
            if a != b:
                called, other = _NUMBER.sub("#", a), _NUMBER.sub("#", b)
                ours, theirs = ([int(number) for number in _NUMBER.findall(part)] for part in (a, b))
                either_end = not EITHER_END.isdisjoint(word for part in self.segments[first] for word in words(part))
                return 0 if called != other or either_end else (ours > theirs) - (ours < theirs)
        return 0

    def _lettered(self, first: int, second: int) -> bool:
        a, b = self.segments[first], self.segments[second]
        at = shared_start(a, b)
        if at >= min(len(a), len(b)) or not {a[at], b[at]} <= set(LETTERS):
            return False
        before = LETTERS[: max(LETTERS.index(a[at]), LETTERS.index(b[at]))]
        return all(any(path[: at + 1] == (*a[:at], letter) for path in self.segments) for letter in before)

    def _number_at(self, first: int, second: int) -> int | None:
        """Return the segment at which two paths first differ, where that is in the number of a list."""
        for at, (a, b) in enumerate(zip(self.segments[first], self.segments[second], strict=False)):
            if a != b:
                return at if stem(a) is not None and stem(a) == stem(b) else None
        return None

    def in_one_member(self, first: int, second: int) -> bool:
        """Return whether two units lie in one member of a list, blocks around blocks included."""
        for a, b in zip(self.segments[first], self.segments[second], strict=False):
            if a != b:
                return False
            if stem(a) is not None:
                return True
        return False

    def list_called(self, first: int, second: int) -> str:
        """Return the path of the list at whose numbers two units stand; "" where they do not."""
        at = self._number_at(first, second)
        if at is None:
            return ""
        path = self.segments[first]
        return ".".join(filter(None, (*path[:at], stem(path[at]))))

    def called(self, at: int) -> tuple[tuple[str, ...], tuple[str | int, ...]]:
        """Return the modules around a unit and what it is called in them: of a row, its name and the place in it.

        `norm1` of `norm1`, `norm2` is called as `layer_norm.0` of `layer_norm.0`, `layer_norm.1`.
        """
        *around, last = self.segments[at]
        row = self.rows[at]
        if row is None:
            return tuple(around), canonical(last)
        first = min(end for other, end in zip(self.rows, self.ends, strict=True) if other == row)
        name = row[1] or (around.pop() if around else "")
        return tuple(around), (*canonical(name), self.ends[at] - first)

    def end_norm(self, at: int) -> int:
        """Return which norm beside all lists a unit is, if its name says no more than that: -1 the first, 1 the last, 0 none.

        It stands in front of the lists, or behind them, or its name says that it is the last. What doesn't come as registered
        stands anywhere: there, only the name says where.
        """
        said = {word for word in self.called(at)[1] if isinstance(word, str)}
        if (
            said
            and LAST_NORM.issuperset(said)
            and not (LAST.isdisjoint(said) and not (self.registered and at > self.last_in_lists))
        ):
            return 1
        in_front = at < self.first_in_lists if self.registered else not FIRST.isdisjoint(said)
        return -1 if in_front and "norm" in said and FIRST_NORM.issuperset(said) else 0

    def stands_at(self, end: int, at: int) -> bool:
        """Return whether a unit stands in front of all lists (-1), or behind them (1)."""
        return at > self.last_in_lists if end > 0 else at < self.first_in_lists

    def exchange(self, first: int, second: int) -> Exchange | None:
        """Return two units of one list with their numbers swapped: for `0.conv` and `1.norm`, `1.conv` and `0.norm`.

        None where they are in no common list, or there is no unit under one of the swapped paths.
        """
        row = self.rows[first]
        if row is not None and row == self.rows[second] and first != second:  # each is the other's like
            return Exchange(self.ends[first] < self.ends[second], (second, first))
        at = self._number_at(first, second)
        if at is None:
            return None
        a, b = self.segments[first], self.segments[second]
        swapped = (*a[:at], b[at], *a[at + 1 :]), (*b[:at], a[at], *b[at + 1 :])
        likes = self.index.get(".".join(swapped[0])), self.index.get(".".join(swapped[1]))
        if likes[0] is None or likes[1] is None:
            return None
        return Exchange(number_of(a[at]) < number_of(b[at]), (likes[0], likes[1]))

    def likes(self, first: int, second: int) -> Mapping[int, int | None]:
        """Return the likes of `first` in other members of the lists around both, each with that of `second` there, None without.

        `1.conv` of `0.conv` beside `0.shortcut`, with `1.shortcut`.
        """
        a, b = self.segments[first], self.segments[second]
        at = shared_start(a, b)
        found = self._likes(at).get(_mark(a, at), ()) if 0 < at < min(len(a), len(b)) else ()
        return {k: self.index.get(".".join((*self.segments[k][:at], *b[at:]))) for k in found if k != first}

    def _likes(self, at: int) -> Mapping[Hashable, Sequence[int]]:
        """Return the units that differ only in the numbers of their first `at` segments together."""
        if at not in self.alike:
            found: dict[Hashable, list[int]] = defaultdict(list)
            for unit, path in enumerate(self.segments):
                found[_mark(path, at)].append(unit)
            self.alike[at] = found
        return self.alike[at]

    def branches(self, first: int, second: int) -> tuple[str, ...]:
        """Return what the sibling modules are called, of several layers, in which two units have one path; () for lists.

        `actor` and `critic` for `actor.fc` and `critic.fc`.
        """
        a, b = self.segments[first], self.segments[second]
        start, end = shared_start(a, b), shared_start(a[::-1], b[::-1])
        inside = tuple(path[start : len(path) - end] for path in (a, b))
        if min(map(len, inside)) != 1 or self.numbered(first, second):
            return ()
        several = all(self.layers_in.get(path[: start + 1], 0) > 1 for path in (a, b))
        return tuple(".".join(own) for own in inside) if several else ()

    def separates(self, first: int, second: int) -> bool:
        """Return whether one of two units comes before the other, with other shapes between them."""
        return self.changes[first] != self.changes[second] and (self.registered or self.numbered(first, second))


def _mark(path: Sequence[str], at: int) -> Hashable:
    """Return a path with the numbers of its first `at` segments set aside."""
    return place_of(".".join(path[:at])), path[at:]


def _root(paths: Sequence[tuple[str, ...]]) -> int:
    """Return how many segments all paths begin with, and have others behind."""
    first, last = min(paths), max(paths)
    most = min(map(len, paths)) - 1
    return next((at for at in range(most) if first[at] != last[at]), max(most, 0))


def _is_layer(unit: Unit) -> bool:
    """Return whether a unit counts as a layer of a module: it has a matrix, or is a tensor of the module's own."""
    return unit.leaves.keys() <= {BARE, "bias"} or any(
        len(shape_class(leaf.shape)) > 1 for leaf in unit.leaves.values()
    )


def _around(unit: Unit) -> list[tuple[str, ...]]:
    """Return the paths of the modules that hold a unit's tensors, cut at the dots; the unit itself may be one of them."""
    parts = tuple(unit.path.split("."))
    return [parts[:at] for at in range(1, len(parts) + 1)]


def sequences_of(
    sources: Sequence[Unit], targets: Sequence[Unit], registered: tuple[bool, bool]
) -> tuple[Order, Order]:
    """Return both sides as sequences."""
    return Order.of(sources, registered=registered[0]), Order.of(targets, registered=registered[1])


def rank_alike(sides: tuple[Order, Order], pair: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether both sides come as registered, and count the units of two pairs the same way."""
    if not all(order.registered for order in sides):
        return False
    here, there = (order.rank(a, b) for order, a, b in zip(sides, pair, other, strict=True))
    return here == there != 0


def is_orderly(path: AbstractSet[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]) -> bool:
    """Return whether the two sides agree in order from end to end."""
    shares = sum(min(sources[i].weight, targets[j].weight) for i, j in path)
    return shares >= ORDERLY * max(sum(u.weight for u in units) for units in (sources, targets))


def _layers_before(units: Sequence[Unit], kinds: Sequence[object]) -> tuple[object, ...]:
    """Return the kind of the last layer before each norm, () where it is the first; None for what is a layer itself."""
    out: list[object] = []
    last: object = ()
    for unit, kind in zip(units, kinds, strict=True):
        is_layer = any(len(leaf.shape) > 1 for leaf in unit.leaves.values())
        out.append(None if is_layer else last)
        last = kind if is_layer else last
    return tuple(out)


def behind_layers(
    pairs: Iterable[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]
) -> set[tuple[int, int]]:
    """Return the pairs of norms that stand right behind layers that are paired with each other.

    One library registers the shortcut of a block first and another last, so that the sequences as a whole agree with only
    one of them; within each, a norm still comes next after the layer whose channels it has.
    """
    to = dict(pairs)
    return {
        (i, j)
        for i, j in to.items()
        if to.get(i - 1) == j - 1 and _is_behind_its_layer(i, sources) and _is_behind_its_layer(j, targets)
    }


def _is_behind_its_layer(at: int, units: Sequence[Unit]) -> bool:
    """Return whether a unit of vectors has the channels of the layer before it, and lies in it or in the same module."""
    layer, norm = units[at - 1], units[at]
    weight, scale = layer.leaves.get("weight"), norm.leaves.get("weight")
    if weight is None or scale is None or len(weight.shape) < 2 or len(scale.shape) != 1:
        return False
    beside = norm.parent in (layer.path, layer.parent)
    return beside and scale.shape[0] in weight.shape[:2]
