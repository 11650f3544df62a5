"""What is no surer than what it stands beside: in a block of which half is in doubt, or where the two could change places."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from torchgraft.core.match import Leaf, Match
from torchgraft.core.names import above
from torchgraft.core.plan import Certainty
from torchgraft.matching.judging.reasons import BESIDE, BY_ORDER, NO_MARGIN
from torchgraft.matching.reviewing.finished import Finished

CHANGED_PLACES = "{0} could change places with it, and is in doubt"
REST = "half of what goes from {0} to {1}, or more, is in doubt"

# Reasons for which another block may be meant.
OF_BLOCKS = frozenset({BESIDE.rule, BY_ORDER.rule, NO_MARGIN.rule})
Blocks = tuple[str, str]


def in_doubtful_blocks(finished: Finished) -> dict[str, str]:
    """Return the slots in doubt of blocks that would be filled from others, where half of that or more is in doubt.

    Where a layer stands out in its block, by its name or the file's order, that says nothing of the block.
    """
    matches = finished.matching.matches
    if not any(m.why.doubted_by in OF_BLOCKS for m in matches):
        return {}
    held: dict[Blocks, list[Match]] = defaultdict(list)
    for m in matches:
        for blocks in _blocks_of(m):
            held[blocks].append(m)
    found: dict[str, str] = {}
    for blocks, inside in held.items():
        doubted = Counter(m.why.doubted_by in OF_BLOCKS for m in inside)
        if doubted[True] >= doubted[False]:
            text = REST.format(*blocks)
            found |= {m.target.name: text for m in inside if m.certainty is not Certainty.DOUBT}
    return found


def exchanged_with_doubt(finished: Finished) -> dict[str, str]:
    """Return the slots in doubt beside one in their block that is in doubt, as what fills them might as well fill that one."""
    asked = {
        key: m
        for m in finished.matching.matches
        if m.why.doubted_by in OF_BLOCKS
        for other in m.alternatives
        for key in other.keys
    }
    return {
        m.target.name: CHANGED_PLACES.format(beside.target.owner)
        for m in finished.matching.matches
        if m.certainty is Certainty.LIKELY
        and (beside := asked.get(m.source.name))
        and beside.target.shape == m.target.shape
        and _is_in_one_block(m.source, beside.source)
        and _is_in_one_block(m.target, beside.target)
    }


def _is_in_one_block(one: Leaf, other: Leaf) -> bool:
    """Return whether two tensors lie in one member of a list."""
    around = {path for path in above(one.owner) if path.rpartition(".")[2].isdecimal()}
    return not around.isdisjoint(above(other.owner))


def _blocks_of(found: Match) -> Iterator[Blocks]:
    """Yield the members of lists around both ends that would stand for each other under other numbers."""
    ours, theirs = (
        [path for path in above(leaf.owner) if path.rpartition(".")[2].isdecimal()]
        for leaf in (found.source, found.target)
    )
    for one, other in zip(ours, theirs, strict=False) if len(ours) == len(theirs) else ():
        if one.rpartition(".")[2] != other.rpartition(".")[2]:
            yield one, other
