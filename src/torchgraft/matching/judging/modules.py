"""What modules tell of a layer whose name doesn't speak for it: where it stands in one that both sides have, or that is paired."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import product
from operator import itemgetter

from torchgraft.core.names import above, without_common_end, words
from torchgraft.matching.judging.certainty import LIKELY, SEVERAL, Sureness
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.judging.reasons import BY_ORDER, NO_MARGIN, OTHER_NAME
from torchgraft.matching.judging.rest import are_layers
from torchgraft.matching.names.words import are_kinds_alike
from torchgraft.matching.parts.units import Unit, kind_of, shape_class

# A module of the file and one of the model.
Modules = tuple[str, str]
# The units of the file, and those of the model.
Sides = tuple[Sequence[Unit], Sequence[Unit]]

OPEN = (BY_ORDER, NO_MARGIN, OTHER_NAME)  # why a pair may be in doubt that a module tells


def told_by_modules(
    judged: Sequence[tuple[Pair, Sureness]],
    pairs: Sequence[Pair],
    sides: tuple[Sequence[Unit], Sequence[Unit]],
) -> list[tuple[Pair, Sureness]]:
    """Return the pairs with those likely that are left of modules whose other layers are paired with each other.

    `pairs` are all that were solved for; where they leave something over on either side, nothing is told, as what is left may
    be of another task. Nor is anything told in a module that holds a layer of the same name on both sides: what is called
    otherwise there is meant otherwise. A layer must be the only one of its shapes that is in doubt. Order says nothing of it:
    modules with names of words are registered in any.
    """
    fitting = [pair for pair in pairs if pair.fits]
    if not len(fitting) == len(sides[0]) == len(sides[1]) or all(sure.doubt != OTHER_NAME for _, sure in judged):
        return list(judged)
    closed = _closed_modules(fitting, [pair for pair, sure in judged if not sure.doubt], sides)
    shapes = [_shapes(unit) for unit in sides[1]]
    doubted = Counter(shapes[pair.target] for pair, sure in judged if sure.doubt)

    def is_told(pair: Pair, sure: Sureness) -> bool:
        source, target = sides[0][pair.source], sides[1][pair.target]
        alone = doubted[shapes[pair.target]] == 1 and pair.rivalry.runner_up is None
        open_only_by_name = sure.doubt == OTHER_NAME and not pair.clash and alone and are_layers(source, target)
        return open_only_by_name and not closed.isdisjoint(product(above(source.path), above(target.path)))

    return [(pair, LIKELY if is_told(pair, sure) else sure) for pair, sure in judged]


def _closed_modules(
    pairs: Iterable[Pair], told: Iterable[Pair], sides: tuple[Sequence[Unit], Sequence[Unit]]
) -> AbstractSet[tuple[str, str]]:
    """Return the modules of several layers that are paired with each other, one of them `told`, and none by its name."""
    ours, theirs = ([list(above(unit.path)) for unit in units] for units in sides)
    here, there = (Counter(path for paths in side for path in paths) for side in (ours, theirs))
    met = Counter(ends for pair in pairs for ends in product(ours[pair.source], theirs[pair.target]))
    named = {path for pair in pairs if pair.named for path in theirs[pair.target]}
    surely = {ends for pair in told for ends in product(ours[pair.source], theirs[pair.target])}
    return {(a, b) for a, b in surely if b not in named and SEVERAL <= met[a, b] == here[a] == there[b]}


def _shapes(unit: Unit) -> frozenset[object]:
    return frozenset((role, shape_class(leaf.shape)) for role, leaf in unit.leaves.items())


def told_in_place(
    judged: Sequence[tuple[Pair, Sureness]],
    pairs: Sequence[Pair],
    sides: Sides,
) -> list[tuple[Pair, Sureness]]:
    """Return the pairs with those likely, or added, that stand in a module of one path on both sides, which tells them.

    Of a layer whose names differ in the word for its kind alone (`fc2` and `linear2`), where no other of its shapes could be
    meant. And of a row that one side counts (`net.0`, `net.2`) and the other one names (`net.fc1`, `net.fc2`), if the two
    are paired with all that is in them: a number says nothing against a name. Those of one shape are told by the numbers of
    both sides.
    """
    sure_of = {pair.target: sure for pair, sure in judged}
    inside = _in_one_place(pairs, sides)
    if not inside:
        return list(judged)
    named = [{pair.source for pair in pairs if pair.named}, {pair.target for pair in pairs if pair.named}]
    rows = [_by_parent(units, without) for units, without in zip(sides, named, strict=True)]
    told = {
        pair.target: pair
        for (ours, theirs), held in inside.items()
        for rule in (_of_one_kind, _of_counted)
        for pair in rule(held, rows[0][ours], rows[1][theirs], sides)
        if not pair.clash and (pair.target not in sure_of or sure_of[pair.target].doubt in OPEN)
    }
    known = [(pair, LIKELY if pair.target in told else sure) for pair, sure in judged]
    return known + [(pair, LIKELY) for target, pair in told.items() if target not in sure_of]


def _in_one_place(pairs: Iterable[Pair], sides: Sides) -> Mapping[Modules, list[Pair]]:
    """Return the pairs that no name tells by their modules, where these have one path, but for what most names have in front."""
    paths = [(pair, sides[0][pair.source], sides[1][pair.target]) for pair in pairs if pair.fits]
    before = Counter(without_common_end(ours.path, theirs.path) for pair, ours, theirs in paths if pair.named)
    usual = before.most_common(1)[0][0] if before else ("", "")
    inside: dict[Modules, list[Pair]] = defaultdict(list)
    for pair, ours, theirs in paths:
        if not pair.named and without_common_end(f"{ours.parent}.", f"{theirs.parent}.") == usual:
            inside[ours.parent, theirs.parent].append(pair)
    return inside


def _by_parent(units: Sequence[Unit], without: Container[int]) -> Mapping[str, list[Unit]]:
    """Return the units that lie in each module, but for some."""
    rows: dict[str, list[Unit]] = defaultdict(list)
    for at, unit in enumerate(units):
        if at not in without:
            rows[unit.parent].append(unit)
    return rows


def _of_one_kind(pairs: Iterable[Pair], ours: Sequence[Unit], theirs: Sequence[Unit], sides: Sides) -> Iterator[Pair]:
    """Yield the pairs that are called alike but for words of their kind, as no other ones of these modules and shapes are."""
    for pair in pairs:
        source, target = sides[0][pair.source], sides[1][pair.target]
        if source.last != target.last and are_kinds_alike(source.last, target.last):
            kind = kind_of(target)
            others = [unit for unit in ours if kind_of(unit) == kind and are_kinds_alike(unit.last, target.last)]
            others += [unit for unit in theirs if kind_of(unit) == kind and are_kinds_alike(source.last, unit.last)]
            if len(others) == len((source, target)):
                yield pair


def _of_counted(pairs: Sequence[Pair], ours: Sequence[Unit], theirs: Sequence[Unit], sides: Sides) -> Iterator[Pair]:
    """Yield the pairs of two rows of which one side counts the members, and the other one has names for them."""
    counted = [{unit.last.isdecimal() for unit in units} for units in (ours, theirs)]
    if counted not in ([{True}, {False}], [{False}, {True}]) or not 1 < len(pairs) == len(ours) == len(theirs):
        return
    alike: dict[object, list[tuple[int, str, Pair]]] = defaultdict(list)
    for pair in pairs:
        source, target = sides[0][pair.source], sides[1][pair.target]
        number, name = (source.last, target.last) if counted[0] == {True} else (target.last, source.last)
        alike[kind_of(target)].append((int(number), name, pair))
    for held in alike.values():
        if len(held) == 1 or _are_a_row([name for _, name, _ in sorted(held, key=itemgetter(0))]):
            yield from (pair for _, _, pair in held)


def _are_a_row(names: Sequence[str]) -> bool:
    """Return whether names are those of one row, in the order of their numbers."""
    parts = [words(name) for name in names]
    numbers = [int(part[-1]) for part in parts if part[-1].isdecimal()]
    return len({part[:-1] for part in parts}) == 1 and len(numbers) == len(names) and numbers == sorted({*numbers})
