"""What all other pairs tell of one where order is lost: a norm goes with its layer, and the only place left is taken."""

from __future__ import annotations

from collections.abc import Container, Sequence

from torchgraft.matching.judging.certainty import ALONE, LIKELY, Sureness
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.judging.reasons import BY_ORDER, NO_MARGIN, OTHER_NAME
from torchgraft.matching.parts.units import Unit, shape_class

# From so many axes on a weight is that of a layer and of no table.
KERNEL = 3


def told_by_the_rest(
    judged: Sequence[tuple[Pair, Sureness]],
    pairs: Sequence[Pair],
    familiar: Container[int],
    sides: tuple[Sequence[Unit], Sequence[Unit]],
) -> list[tuple[Pair, Sureness]]:
    """Return the pairs with those likely that order would tell if it weren't lost, and that all others tell as well.

    `pairs` are all that were solved for; targets in a `familiar` part of a file, whose other names agree, need their names,
    too.
    """
    whole = len([pair for pair in pairs if pair.fits]) == len(sides[0]) == len(sides[1])
    told = [
        (pair, LIKELY if whole and _is_open(pair, sure, familiar) and _is_the_only_one(pair, sides) else sure)
        for pair, sure in judged
    ]
    surely = {(pair.source, pair.target) for pair, sure in told if not sure.doubt}
    return [(pair, LIKELY if pair.beside in surely and _is_open(pair, sure, familiar) else sure) for pair, sure in told]


def _is_open(pair: Pair, sure: Sureness, familiar: Container[int]) -> bool:
    """Return whether a pair is in doubt only since nothing tells it from others, or since its name doesn't speak for it."""
    return sure.doubt in (BY_ORDER, NO_MARGIN) or (sure.doubt == OTHER_NAME and pair.target not in familiar)


def _is_the_only_one(pair: Pair, sides: tuple[Sequence[Unit], Sequence[Unit]]) -> bool:
    """Return whether each side has but one layer of these sizes, and it surely is a layer: a table of two kinds is no head.

    A kernel as a matrix may have its positions in another order.
    """
    if pair.clash or pair.rare <= ALONE or pair.rivalry.runner_up is not None:
        return False
    return are_layers(sides[0][pair.source], sides[1][pair.target])


def are_layers(source: Unit, target: Unit) -> bool:
    """Return whether two units hold the same tensors, and surely are layers: they have a bias, or read positions as kernels do."""
    ours, theirs = source.leaves, target.leaves
    if ours.keys() != theirs.keys():
        return False
    if any(shape_class(leaf.shape) != shape_class(theirs[role].shape) for role, leaf in ours.items()):
        return False
    return len(ours) > 1 or ("weight" in ours and len(ours["weight"].shape) >= KERNEL)
