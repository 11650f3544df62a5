"""What modules tell of a layer whose name doesn't speak for it: all else of its module went into one module of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from itertools import product

from torchgraft.core.names import above
from torchgraft.matching.judging.certainty import LIKELY, SEVERAL, Sureness
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.judging.reasons import OTHER_NAME
from torchgraft.matching.judging.rest import are_layers
from torchgraft.matching.parts.units import Unit, shape_class


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
