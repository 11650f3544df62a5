"""Branches of equal shapes go where their words lead: `context_block` to `ff_context` and `norm1_context`, not by its order.

Of two modules side by side that hold the same, single layers say little of which is which, and an assignment follows the
order of registration. What all their layers say together tells it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torchgraft.matching.evidence.scores import FITS
from torchgraft.matching.parts.units import Unit, kind_of

if TYPE_CHECKING:
    import numpy as np

    from torchgraft.matching.evidence.scores import Evidence

# Fewer layers than this are no branch.
LEAST = 2


def by_words(
    pairs: Sequence[tuple[int, int]],
    scores: np.ndarray,
    evidence: Evidence,
    sides: tuple[Sequence[Unit], Sequence[Unit]],
) -> list[tuple[int, int]]:
    """Return the pairs with two branches exchanged that share more words with each other's places, and are no less alike.

    `scores` is what speaks for each pair alone; only what fits is exchanged, and only where all of both branches is paired.
    """
    to = dict(pairs)
    for side, units in enumerate(sides):
        for twins in _twins(units):
            here = to if side == 0 else {j: i for i, j in to.items()}
            if not all(a in here and b in here for a, b in twins):
                continue
            before = [pair for a, b in twins for pair in ((a, here[a]), (b, here[b]))]
            after = [pair for a, b in twins for pair in ((a, here[b]), (b, here[a]))]
            if side == 1:
                before, after = ([(i, j) for j, i in found] for found in (before, after))
            if all(scores[pair] >= FITS for pair in after) and _say_more(after, before, evidence):
                to.update(after)
    return sorted(to.items())


def _say_more(after: Sequence[tuple[int, int]], before: Sequence[tuple[int, int]], evidence: Evidence) -> bool:
    """Return whether words speak for some pairs against others: more of them are shared, and names are no less alike."""
    shared, names, clash = (
        sum(float(table[pair]) for pair in after) - sum(float(table[pair]) for pair in before)
        for table in (evidence.shared, evidence.names, evidence.clash)
    )
    return shared > 0 and names > 0 and clash <= 0


def _twins(units: Sequence[Unit]) -> Iterator[list[tuple[int, int]]]:
    """Yield the layers of each two modules side by side in a block that hold the same, each beside its like."""
    held: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for at, unit in enumerate(units):
        child, _, rest = unit.tail.partition(".")
        if unit.block and rest and not child.isdecimal():
            held[unit.block][child][rest] = at
    for children in held.values():
        yield from _alike(children, units)


def _alike(children: Mapping[str, Mapping[str, int]], units: Sequence[Unit]) -> Iterator[list[tuple[int, int]]]:
    """Yield the twins of a block that has just two children of some make."""
    makes: dict[object, list[Mapping[str, int]]] = defaultdict(list)
    for inside in children.values():
        if len(inside) >= LEAST:
            makes[frozenset((rest, kind_of(units[at])) for rest, at in inside.items())].append(inside)
    for found in makes.values():
        if len(found) == 2:
            yield [(found[0][rest], found[1][rest]) for rest in found[0]]
