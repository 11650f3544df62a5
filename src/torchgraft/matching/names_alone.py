"""Matching by names alone, where they leave no question open."""

from __future__ import annotations

from collections.abc import Sequence

from torchgraft.core.match import Leaf, Match, Matching, Sides
from torchgraft.core.names import DERIVED_ROLES
from torchgraft.core.system.fast_objects import maker
from torchgraft.matching.names.lists import may_count_otherwise
from torchgraft.matching.names.naming import Naming
from torchgraft.matching.parts.named_parts import pairs_of_parts, reason_of_part
from torchgraft.matching.parts.resized import have_nowhere_else
from torchgraft.matching.parts.units import flat_class, shape_class
from torchgraft.matching.tables.dialect import VARIANCES
from torchgraft.matching.tables.packing import packed_otherwise
from torchgraft.matching.tables.stated import Models

_make_match = maker(Match)

Pairs = list[tuple[Leaf, Leaf]]


def by_names(sources: Sequence[Leaf], targets: Sequence[Leaf], naming: Naming, models: Models) -> Matching | None:
    """Return the matching by names alone, or None where it would leave a question open.

    One side may have tensors left, or both may, where these are the parts of fused ones by name.
    """
    sides = sources, targets
    pairs, free = _named(sides, naming)
    left = [any(not _is_harmless(leaf) for leaf in leaves) for leaves in free]
    parts: Pairs = []
    if all(left):
        is_plain = naming.is_plain and not models.stated.heads
        parts = pairs_of_parts(free, sides, models, naming.prefixes[0]) if is_plain else []
        if not parts:
            return None
        free = [], []
    if _are_contradicted(pairs, free, sides, is_all=not any(left)):
        return None
    named = (_make_match(target=b, source=a, why=naming.reason(a, b), certainty=naming.certainty(a)) for a, b in pairs)
    cut = (_make_match(target=b, source=a, why=reason_of_part(a, b)) for a, b in parts)
    return Matching(matches=(*named, *cut), free_targets=tuple(free[1]), free_sources=tuple(free[0]))


def _named(sides: Sides, naming: Naming) -> tuple[Pairs, Sides]:
    """Return what names pair, and what they leave on either side."""
    sources, targets = sides
    wanted, taken = {leaf.name: leaf for leaf in targets}, set(naming.pairs.values())
    pairs = [(leaf, wanted[naming.pairs[leaf.name]]) for leaf in sources if leaf.name in naming.pairs]
    free_sources = [leaf for leaf in sources if leaf.name not in naming.pairs]
    return pairs, (free_sources, [leaf for leaf in targets if leaf.name not in taken])


def _are_contradicted(pairs: Pairs, free: Sides, sides: Sides, *, is_all: bool) -> bool:
    """Whether something says that equal names may not mean the same; `is_all`: nothing is left on either side.

    Norms of other kinds, rows in another order, lists that may be counted otherwise; and shapes, unless all is paired and what
    differs fits nothing else.
    """
    if _of_other_kinds(pairs, *sides) or packed_otherwise(pairs, *sides):
        return True
    unlike = [(a, b) for a, b in pairs if not _same_elements(a, b)]
    if unlike and not (
        is_all and have_nowhere_else(unlike, ([a.shape for a, _ in pairs], [b.shape for _, b in pairs]))
    ):
        return True
    return any(
        may_count_otherwise([pair[side].name for pair in pairs], [leaf.name for leaf in rest])
        for side, rest in enumerate(free)
        if rest
    )


def _of_other_kinds(pairs: Sequence[tuple[Leaf, Leaf]], sources: Sequence[Leaf], targets: Sequence[Leaf]) -> bool:
    """Whether a name means a norm with statistics on one side and something without on the other."""
    ours, theirs = ({leaf.owner for leaf in side if leaf.role in VARIANCES} for side in (sources, targets))
    return bool(ours or theirs) and any((a.owner in ours) != (b.owner in theirs) for a, b in pairs)


def _same_elements(a: Leaf, b: Leaf) -> bool:
    return (
        a.shape == b.shape or shape_class(a.shape) == shape_class(b.shape) or flat_class(a.shape) == flat_class(b.shape)
    )


def _is_harmless(leaf: Leaf) -> bool:
    """Whether the tensor holds no knowledge: a counter, an index, a mask."""
    return leaf.role in DERIVED_ROLES
