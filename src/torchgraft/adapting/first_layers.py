"""Which convolutions are the first of their network: their input channels are those of the data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torchgraft.core.match import Leaf, Match


def first_convolutions(matches: Sequence[Match], leaves: tuple[Sequence[Leaf], Sequence[Leaf]]) -> frozenset[str]:
    """Return the weights of first convolutions, of either side: the model's first, and what it is fed from.

    `leaves` are all of the file's and all of the model's. The file's first counts as well where its order says something.
    """
    convs = [leaf for leaf in leaves[1] if _is_kernel(leaf) and leaf.part is None]
    first = {min(convs, key=_order).keys[0]} if convs else set()
    stored = [leaf for leaf in leaves[0] if _is_kernel(leaf)]
    if stored and not _alphabetical(leaves[0]) and _in_step(matches):
        first.add(min(stored, key=_order).keys[0])
    return frozenset(first | {m.source.keys[0] for m in matches if m.target.keys[0] in first})


def _is_kernel(leaf: Leaf) -> bool:
    return len(leaf.shape) >= 3 and leaf.role == "weight"


def _order(leaf: Leaf) -> int:
    return leaf.order


def _alphabetical(leaves: Sequence[Leaf]) -> bool:
    keys = [leaf.keys[0] for leaf in sorted(leaves, key=_order)]
    return len(keys) > 8 and keys == sorted(keys)


def _in_step(matches: Sequence[Match]) -> bool:
    """Whether the file has its tensors mostly in the model's order; a first one says nothing where it was shuffled."""
    orders = [m.source.order for m in sorted(matches, key=lambda m: m.target.order)]
    return 4 * sum(a <= b for a, b in pairwise(orders)) >= 3 * (len(orders) - 1)
