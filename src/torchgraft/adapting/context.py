"""What a plan depends on besides the matching: what the caller asks for, and what is known of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torchgraft.adapting.options import Options
from torchgraft.adapting.rewrites import Preferences
from torchgraft.adapting.unmatched import SecondNames
from torchgraft.adapting.views import View
from torchgraft.core.match import Ranks
from torchgraft.core.plan import Step
from torchgraft.core.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanContext:
    """All that a plan depends on besides the matching.

    `network` is the container path of the source, `architecture` what the file says that it holds, "" where it doesn't;
    `second` tells which of its names hold what another one has. `requested` are the steps of slots that were decided ahead
    of matching; `ranks` are there when the checkpoint is spread over tensor-parallel ranks, `views` are those that it was
    matched under. `source_grids` are those that the source's model says it cuts images into.
    """

    options: Options
    policy: Policy
    preferences: Preferences
    network: str = ""
    architecture: str = ""
    requested: Mapping[str, Step] = field(default_factory=dict)
    ranks: Ranks | None = None
    views: Sequence[View] = ()
    second: SecondNames = field(default_factory=SecondNames)
    source_grids: frozenset[tuple[int, int]] = frozenset()
