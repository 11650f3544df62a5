"""Rules that blocks which agree from end to end give for the other blocks of their lists.

The first block of a stage often holds a branch more, registered before the others on one side and after them on the
other. Order then leads astray there, though the remaining blocks tell which part is which. So does what stands alone with
its shape in a block: where two branches have the same width in one block, other blocks tell which is which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchgraft.matching.evidence.scores import FITS
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.parts.units import Unit, kind_of

if TYPE_CHECKING:
    import numpy as np

# Score that the new reading may lose by names and shapes, for each pair that it changes: a rule outweighs a few words.
SLACK = 0.5

Lists = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Blocks:
    """A block of either side that correspond: their paths, their units, and the places (patterns) of their lists."""

    ours: str
    theirs: str
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    lists: Lists


def by_block_rules(
    pairs: list[tuple[int, int]],
    path: AbstractSet[tuple[int, int]],
    scores: np.ndarray,
    sources: Sequence[Unit],
    targets: Sequence[Unit],
) -> list[tuple[int, int]]:
    """Return the pairs, those of blocks as the rules of their lists have them.

    `path` are those in order, `scores` what speaks for each alone. Only blocks of as many units are compared, and a rule is
    followed only if all units of the block still find a place that fits.
    """
    to = dict(pairs)
    blocks = list(_corresponding(to, sources, targets))
    rules = _rules(blocks, to, path, sources, targets)
    for block in blocks:
        found = _reread(block, rules.get(block.lists, {}), scores, sources, targets)
        if found and _gains(found, to, scores):
            to.update(found)
    return sorted(to.items())


def _corresponding(to: Mapping[int, int], sources: Sequence[Unit], targets: Sequence[Unit]) -> Iterator[Blocks]:
    """Yield the pairs of blocks of equal size whose units are mostly paired with each other."""
    ours, theirs = _members(sources), _members(targets)
    for block, members in ours.items():
        met = Counter(b for i in members if i in to for b in targets[to[i]].blocks if len(theirs[b]) == len(members))
        for other, count in met.items():
            if 2 * count > len(members) > 1:
                yield Blocks(block, other, members, theirs[other], (place_of(block), place_of(other)))


def _members(units: Sequence[Unit]) -> dict[str, tuple[int, ...]]:
    found: dict[str, list[int]] = {}
    for at, unit in enumerate(units):
        for block in unit.blocks:
            found.setdefault(block, []).append(at)
    return {block: tuple(members) for block, members in found.items()}


def _is_clean(block: Blocks, to: Mapping[int, int], path: AbstractSet[tuple[int, int]]) -> bool:
    return all(to.get(i) == j and (i, j) in path for i, j in zip(block.sources, block.targets, strict=True))


def _rules(
    blocks: Sequence[Blocks],
    to: Mapping[int, int],
    path: AbstractSet[tuple[int, int]],
    sources: Sequence[Unit],
    targets: Sequence[Unit],
) -> dict[Lists, dict[str, str]]:
    """Return, for each pair of lists, the place within a target block of each place within a source block.

    A block gives rules for the places whose shapes are alone in it, and one in order all others.
    """
    ordered: dict[Lists, dict[str, set[str]]] = {}
    shaped: dict[Lists, dict[str, set[str]]] = {}
    for block in blocks:
        clean = {i: to[i] for i in block.sources} if _is_clean(block, to, path) else {}
        for rules, sure in ((ordered, clean), (shaped, _alone(block, sources, targets))):
            places = rules.setdefault(block.lists, {})
            for i, j in sure.items():
                places.setdefault(sources[i].path[len(block.ours) :], set()).add(targets[j].path[len(block.theirs) :])
    return {
        lists: {tail: next(iter(other)) for tail, other in (ordered[lists] | shaped[lists]).items() if len(other) == 1}
        for lists in ordered
    }


def _alone(block: Blocks, sources: Sequence[Unit], targets: Sequence[Unit]) -> dict[int, int]:
    """Return the pairs of a block whose shapes one unit of either side has."""
    ours, theirs = (
        Counter(kind_of(units[at]) for at in members)
        for units, members in ((sources, block.sources), (targets, block.targets))
    )
    at = {kind_of(targets[j]): j for j in block.targets}
    kinds = {i: kind_of(sources[i]) for i in block.sources}
    return {i: at[kind] for i, kind in kinds.items() if ours[kind] == theirs[kind] == 1}


def _reread(
    block: Blocks, rules: Mapping[str, str], scores: np.ndarray, sources: Sequence[Unit], targets: Sequence[Unit]
) -> dict[int, int] | None:
    """Return the pairs of a block by its lists' rules, with the rest in order; None where something doesn't fit."""
    at = {targets[j].path[len(block.theirs) :]: j for j in block.targets}
    found = {i: at.get(rules.get(sources[i].path[len(block.ours) :], "")) for i in block.sources}
    known = {i: j for i, j in found.items() if j is not None}
    if not known or len(set(known.values())) < len(known):
        return None
    used = set(known.values())
    rest = [i for i in block.sources if i not in known], [j for j in block.targets if j not in used]
    known.update(zip(*rest, strict=True))
    return known if all(scores[i, j] >= FITS for i, j in known.items()) else None


def _gains(found: Mapping[int, int], to: Mapping[int, int], scores: np.ndarray) -> bool:
    changed = [(i, j) for i, j in found.items() if to.get(i) != j]
    if not changed or {to.get(i) for i, _ in changed} != {j for _, j in changed}:
        return False  # nothing new, or a place that another block's unit has
    loss = sum(float(scores[i, to[i]]) - float(scores[i, j]) for i, j in changed)
    return loss <= SLACK * len(changed)
