"""Who feeds whom: names first, then order, shapes and neighbours; every claim with its ground and how sure it is.

`match` (`flow`) takes the file section by section (`one_section`). Names decide where they leave no question open
(`names_alone`): no shape contradicts them, but for tensors that fit nowhere else, and only one side has anything left, or one
has fused what the other has apart. Else they are evidence among others, and both sides are aligned as a whole (`structure`).
"""

from __future__ import annotations

from torchgraft.matching.alike import alike
from torchgraft.matching.completing.said import said_in_other_terms
from torchgraft.matching.flow import Asked, match
from torchgraft.matching.names.rules import Rules
from torchgraft.matching.names.sections import averaged_beside, keep_part
from torchgraft.matching.one_section import Known
from torchgraft.matching.ranks import join_ranks
from torchgraft.matching.select import (
    choose,
    has_network,
    listed_networks,
    only,
    require_weights,
    told_path,
)
from torchgraft.matching.source_model import origin_of
from torchgraft.matching.tables.stated import Models, Stated

__all__ = [
    "Asked",
    "Known",
    "Models",
    "Rules",
    "Stated",
    "alike",
    "averaged_beside",
    "choose",
    "has_network",
    "join_ranks",
    "keep_part",
    "listed_networks",
    "match",
    "only",
    "origin_of",
    "require_weights",
    "said_in_other_terms",
    "told_path",
]
