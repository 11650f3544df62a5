"""The weight of a layer that passes on what it is given: the start of an added layer that changes nothing.

A matrix is the unit matrix. A kernel has a single one in its middle for each output channel, at the input channel of
the same number within its group (torch.nn.init.dirac_). Deeper networks that start as the shallow one: Net2Net, Chen,
Goodfellow and Shlens, 2016 (arXiv:1511.05641).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.ops.base import BaseOp, dtype_of, expect_count, expect_sizes
from torchgraft.ops.exact import torch_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@dataclass(frozen=True, slots=True)
class Identity(BaseOp):
    """Makes, from no input, the weight [out, in / groups, ...] of a layer that is the identity."""

    shape: tuple[int, ...]
    dtype: str
    groups: int = 1

    name = "identity"
    lossless = True

    def __post_init__(self) -> None:
        expect_sizes(self.name, "shape", self.shape)
        dtype_of(self.name, self.dtype)
        if len(self.shape) < 2 or self.groups < 1 or self.shape[0] != self.shape[1] * self.groups:
            raise UsageError(
                f"identity: {list(self.shape)} with {self.groups} group(s) has not as many outputs as inputs"
            )
        if any(n % 2 == 0 for n in self.shape[2:]):
            raise UsageError(f"identity: a kernel {list(self.shape[2:])} has no middle")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        """Return the spec, without a name.

        Raises:
            UsageError: there are inputs.
        """
        expect_count(self.name, specs, 0)
        return TensorSpec("", self.shape, dtype_of(self.name, self.dtype))

    def run(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the new weight, on the CPU."""
        import torch

        del values
        out = torch.zeros(self.shape, dtype=torch.float32, device="cpu")
        middle: list[Any] = [n // 2 for n in self.shape[2:]]
        channels = torch.arange(self.shape[0], device="cpu")
        out[channels, channels % self.shape[1], *middle] = 1.0
        return out.to(torch_dtype(self.dtype))

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        """Return nothing: there are no inputs."""
        self.out_spec(specs)
        return ()

    def describe(self) -> str:
        """Return the words for the report."""
        return "identity"
