"""What a plan is tried with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from torchgraft.verifying.tracing import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a plan is tried with: the model and its inputs, runs of the source on the same, and its names in the file.

    Without inputs, the whole can't be run. `origin` is the source's model, where it is at hand, and `source_inputs` what
    it was run on: they are needed to prove parts.
    """

    model: nn.Module
    inputs: Sequence[Any]
    sources: Sequence[Run]
    keys: Mapping[str, str]
    tolerance: float | None = None
    origin: nn.Module | None = None
    source_inputs: Sequence[Any] = ()
