"""Matrices and kernels that are left on both sides, each the only one of its shape there: named otherwise, or another thing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.names import DERIVED_ROLES
from torchgraft.core.plan import Certainty, Why
from torchgraft.core.specs import Shape

DOUBT = "nothing else that is left has its shape, but its name is another one"


def with_lone_ones(matching: Matching) -> Matching:
    """Return the matching with those in doubt as pairs that are alone of their shape among what is left of their block.

    Most of a file may agree by name and one layer have another one (`embed_out` for `lm_head`). To leave it fresh would
    load a model without its head; whether it is the same layer nobody knows but the caller.
    """
    theirs = _only((leaf for leaf in matching.free_targets if not leaf.is_buffer), _block)
    shapes = {shape for _, shape in theirs}
    if not any(leaf.shape in shapes for leaf in matching.free_sources):
        return matching
    blocks = _blocks(matching)
    ours = _only(matching.free_sources, lambda leaf: blocks.get(_block(leaf), None))
    found = [_match(ours[at], leaf) for at, leaf in theirs.items() if at in ours]
    if not found:
        return matching
    found += _beside(found, matching)
    return matching.with_more(found)


def _block(leaf: Leaf) -> str:
    """Return the innermost member of a list around a tensor, "" where there is none."""
    parts = leaf.owner.split(".")
    ends = [at for at, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: ends[-1] + 1]) if ends else ""


def _blocks(matching: Matching) -> dict[str, str]:
    """Return where each block of the file went, as far as that is one block; what stands in none stays in none."""
    went: dict[str, Counter[str]] = defaultdict(Counter)
    for m in matching.matches:
        went[_block(m.source)][_block(m.target)] += 1
    found = {block: to for block, places in went.items() if block for to, count in places.items()
             if to and 2 * count > places.total()}  # fmt: skip
    return found | {"": ""}


def _only(free: Iterable[Leaf], block_of: Callable[[Leaf], str | None]) -> dict[tuple[str, Shape], Leaf]:
    """Return the whole matrices and kernels that are the only ones of their shape in a block, by both."""
    found: dict[tuple[str, Shape], list[Leaf]] = defaultdict(list)
    for leaf in free:
        block = block_of(leaf)
        if block is not None and len(leaf.shape) > 1 and leaf.role not in DERIVED_ROLES:
            found[block, leaf.shape].append(leaf)
    return {at: leaves[0] for at, leaves in found.items() if len(leaves) == 1 and _is_whole(leaves[0])}


def _is_whole(leaf: Leaf) -> bool:
    return leaf.form == "plain" and leaf.part is None


def _beside(found: Iterable[Match], matching: Matching) -> list[Match]:
    """Return what else is left of the same modules under one role and of one shape."""
    ours, theirs = (
        {(leaf.owner, leaf.role): leaf for leaf in side} for side in (matching.free_sources, matching.free_targets)
    )
    return [
        _match(ours[m.source.owner, role], leaf)
        for m in found
        for (owner, role), leaf in theirs.items()
        if owner == m.target.owner and role != m.target.role and (m.source.owner, role) in ours
        and ours[m.source.owner, role].shape == leaf.shape
    ]  # fmt: skip


def _match(source: Leaf, target: Leaf) -> Match:
    why = Why("leftover", f"{source.name} and {target.name} are left, of one shape", doubt=DOUBT)
    return Match(target=target, source=source, why=why, certainty=Certainty.DOUBT)
