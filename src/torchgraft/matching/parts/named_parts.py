"""Fused tensors on one side whose parts the other side has apart, under the very names that parts have."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf, Sides
from torchgraft.core.plan import Why
from torchgraft.matching.names.naming import IDENTITY, Prefix
from torchgraft.matching.names.spelling import unfolded
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.cutting import cut
from torchgraft.matching.tables.packing import any_named_fused
from torchgraft.matching.tables.stated import Models

Heads = Callable[[str], int | None]


def pairs_of_parts(free: Sides, sides: Sides, models: Models, rule: Prefix) -> list[tuple[Leaf, Leaf]]:
    """Return which parts are which of the `free` tensors of both sides; none where they don't pair up one by one.

    A part and a whole tensor are a pair if both lie in the same module, are called the same thing in it, and have one shape.
    `sides` are all tensors: what stands beside a fused one tells how it is packed. `rule` reads the file's names as the
    model's.
    """
    if not any(map(any_named_fused, free)):
        return []
    ours = _cut(sides[0], free[0], models.source_heads, rule)
    theirs = _cut(sides[1], free[1], models.target.heads_at, IDENTITY)
    if not ours or ours.keys() != theirs.keys():
        return []
    pairs = [(leaf, theirs[key]) for key, leaf in ours.items()]
    return pairs if all((a.part is None) != (b.part is None) and a.shape == b.shape for a, b in pairs) else []


def _cut(leaves: Sequence[Leaf], free: Sequence[Leaf], heads: Heads, rule: Prefix) -> dict[Hashable, Leaf]:
    """Return the free tensors, fused ones as their parts, by module and what they are called in it; none where two are called alike."""
    names = {leaf.name for leaf in free}
    keys = {key for leaf in free for key in leaf.keys}
    parts = [leaf for leaf in cut(leaves, {leaf.name for leaf in leaves} - names, heads) if keys.issuperset(leaf.keys)]
    found: dict[Hashable, Leaf] = {}
    for leaf in parts:
        path = rule.applied(leaf.owner) if rule.covers(leaf.owner) else leaf.owner
        module, _, own = path.rpartition(".")
        found[module, canonical(own), leaf.role] = leaf
    return found if len(found) == len(parts) else {}


def reason_of_part(source: Leaf, target: Leaf) -> Why:
    """Return why a part and a whole tensor are a pair."""
    cut_from = next(leaf for leaf in (source, target) if leaf.part)
    label, fused = cut_from.owner, unfolded(cut_from.keys[0]).rpartition(".")[0]
    return Why(Ground.NAME, f"{label.rpartition('.')[2]} of {fused.rpartition('.')[2]}, by name")
