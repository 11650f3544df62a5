"""Initial values for slots that a checkpoint does not fill, in a model that has none: by the model's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchgraft.core.errors import PlanRefusedError
from torchgraft.core.plan import Action, Objection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from torchgraft.applying.cells import Cell
    from torchgraft.core.plan import Step


def initialise(model: nn.Module, cells: Mapping[str, Cell], steps: Sequence[Step]) -> tuple[str, ...]:
    return ()
