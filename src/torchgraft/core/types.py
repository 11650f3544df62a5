"""Torch's types by name, for annotations: torch itself is imported only where something is done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from torch import device as Device  # noqa: N812  # a type
    from torch import dtype as ScalarType  # noqa: N812  # what torch's own code calls it
    from torch.distributed import ProcessGroup
    from torch.nn import Module, Parameter
    from torch.optim import Optimizer
else:
    Device = Generator = Module = Optimizer = Parameter = ProcessGroup = ScalarType = Tensor = Any

__all__ = ["Device", "Generator", "Module", "Optimizer", "Parameter", "ProcessGroup", "ScalarType", "Tensor"]
