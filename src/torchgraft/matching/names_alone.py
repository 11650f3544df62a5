"""Matching by names alone, where they leave no question open."""

from __future__ import annotations

from collections.abc import Sequence

from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.names import DERIVED_ROLES
from torchgraft.core.system.objects import maker
from torchgraft.matching.names.lists import may_count_otherwise
from torchgraft.matching.names.naming import Naming
from torchgraft.matching.parts.named_parts import pairs_of_parts, reason_of_part
from torchgraft.matching.parts.resized import have_nowhere_else
from torchgraft.matching.parts.units import flat_class, shape_class
from torchgraft.matching.tables.dialect import VARIANCES
from torchgraft.matching.tables.packing import packed_otherwise
from torchgraft.matching.tables.stated import Models

_make_match = maker(Match)


def by_names(sources: Sequence[Leaf], targets: Sequence[Leaf], naming: Naming, models: Models) -> Matching | None:
    """Return the matching by names alone, or None where it would leave a question open."""
    wanted = {leaf.name: leaf for leaf in targets}
    pairs = [(leaf, wanted[naming.pairs[leaf.name]]) for leaf in sources if leaf.name in naming.pairs]
    taken = set(naming.pairs.values())
    free_sources = [leaf for leaf in sources if leaf.name not in naming.pairs]
    free_targets = [leaf for leaf in targets if leaf.name not in taken]
    left = [any(not harmless(leaf) for leaf in free) for free in (free_sources, free_targets)]
    parts: list[tuple[Leaf, Leaf]] = []
    if all(left):
        free, is_plain = (free_sources, free_targets), naming.is_plain and not models.stated.heads
        parts = pairs_of_parts(free, (sources, targets), models, naming.prefixes[0]) if is_plain else []
        if not parts:
            return None
        free_sources, free_targets = [], []
    if _of_other_kinds(pairs, sources, targets) or packed_otherwise(pairs, sources, targets):
        return None
    unlike = [(a, b) for a, b in pairs if not _same_elements(a, b)]
    if unlike and (
        any(left) or not have_nowhere_else(unlike, ([a.shape for a, _ in pairs], [b.shape for _, b in pairs]))
    ):
        return None
    if _may_count_otherwise([a for a, _ in pairs], free_sources) or _may_count_otherwise(
        [b for _, b in pairs], free_targets
    ):
        return None
    return Matching(
        matches=(
            *(
                _make_match(target=b, source=a, why=naming.reason(a, b), certainty=naming.certainty(a))
                for a, b in pairs
            ),
            *(_make_match(target=b, source=a, why=reason_of_part(a, b)) for a, b in parts),
        ),
        free_targets=tuple(free_targets),
        free_sources=tuple(free_sources),
    )


def _may_count_otherwise(paired: Sequence[Leaf], free: Sequence[Leaf]) -> bool:
    return bool(free) and may_count_otherwise([leaf.name for leaf in paired], [leaf.name for leaf in free])


def _of_other_kinds(pairs: Sequence[tuple[Leaf, Leaf]], sources: Sequence[Leaf], targets: Sequence[Leaf]) -> bool:
    """Whether a name means a norm with statistics on one side and something without on the other."""
    ours, theirs = ({leaf.owner for leaf in side if leaf.role in VARIANCES} for side in (sources, targets))
    return bool(ours or theirs) and any((a.owner in ours) != (b.owner in theirs) for a, b in pairs)


def _same_elements(a: Leaf, b: Leaf) -> bool:
    return (
        a.shape == b.shape or shape_class(a.shape) == shape_class(b.shape) or flat_class(a.shape) == flat_class(b.shape)
    )


def harmless(leaf: Leaf) -> bool:
    """Whether the tensor holds no knowledge: a counter, an index, a mask."""
    return leaf.role in DERIVED_ROLES
