"""Ops that make a tensor from no input: one value throughout, given values, and the weight of an identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp
from torchgraft.ops.exact import torch_dtype


@dataclass(frozen=True, slots=True)
class ConstantOp(BaseOp):
    """Base of the ops that make a tensor of this shape and type."""

    shape: tuple[int, ...]
    dtype: str

    lossless = True

    def __post_init__(self) -> None:
        self.expect_sizes("shape", self.shape, least=0)
        self.dtype_of(self.dtype)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 0)
        return TensorSpec("", self.shape, self.dtype_of(self.dtype))

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        return ()


@dataclass(frozen=True, slots=True)
class Constant(ConstantOp):
    """Makes a tensor of one value."""

    value: float

    name = "constant"

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the new tensor, on the CPU."""
        import torch

        del values
        return torch.full(self.shape, self.value, dtype=torch.float64, device="cpu").to(torch_dtype(self.dtype))

    def describe(self) -> str:
        return "zeros" if self.value == 0 else "ones" if self.value == 1 else f"constant {self.value:g}"


@dataclass(frozen=True, slots=True)
class Literal(ConstantOp):
    """Makes a tensor of these values, in C order: an index table that conversion code brings along."""

    values: tuple[float, ...]

    name = "literal"

    def __post_init__(self) -> None:
        ConstantOp.__post_init__(self)
        if len(self.values) != prod(self.shape):
            raise UsageError(f"{self.name}: {len(self.values)} values don't fill {list(self.shape)}")
        kind = self.dtype_of(self.dtype).kind
        if kind != "float" and any(value != value // 1 for value in self.values):
            raise UsageError(f"{self.name}: {self.dtype} holds whole numbers")

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the new tensor, on the CPU."""
        import torch

        del values
        made = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        return made.to(torch_dtype(self.dtype)).reshape(self.shape)

    def describe(self) -> str:
        return f"{len(self.values)} given values"


@dataclass(frozen=True, slots=True)
class Identity(ConstantOp):
    """Makes the weight [out, in / groups, ...] of a layer that passes on what it is given: an added layer's start.

    A matrix is the unit matrix. A kernel has a single one in its middle for each output channel, at the input channel of
    the same number within its group (torch.nn.init.dirac_). Deeper networks that start as the shallow one: Net2Net, Chen,
    Goodfellow and Shlens, 2016 (arXiv:1511.05641).
    """

    groups: int = 1

    name = "identity"

    def __post_init__(self) -> None:
        self.expect_sizes("shape", self.shape)
        self.dtype_of(self.dtype)
        if len(self.shape) < 2 or self.groups < 1 or self.shape[0] != self.shape[1] * self.groups:
            raise UsageError(
                f"identity: {list(self.shape)} with {self.groups} group(s) has not as many outputs as inputs"
            )
        if any(n % 2 == 0 for n in self.shape[2:]):
            raise UsageError(f"identity: a kernel {list(self.shape[2:])} has no middle")

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the new weight, on the CPU."""
        import torch

        del values
        out = torch.zeros(self.shape, dtype=torch.float32, device="cpu")
        middle: list[Any] = [n // 2 for n in self.shape[2:]]
        channels = torch.arange(self.shape[0], device="cpu")
        out[channels, channels % self.shape[1], *middle] = 1.0
        return out.to(torch_dtype(self.dtype))

    def describe(self) -> str:
        return "identity"
