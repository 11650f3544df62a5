"""The op that makes a tensor of given values."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.ops.base import BaseOp, dtype_of, expect_count, expect_sizes
from torchgraft.ops.exact import torch_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch


@dataclass(frozen=True, slots=True)
class Literal(BaseOp):
    """Makes a tensor of these values, in C order, from no input: an index table that conversion code brings along."""

    shape: tuple[int, ...]
    dtype: str
    values: tuple[float, ...]

    name = "literal"
    lossless = True

    def __post_init__(self) -> None:
        expect_sizes(self.name, "shape", self.shape, least=0)
        if len(self.values) != prod(self.shape):
            raise UsageError(f"{self.name}: {len(self.values)} values don't fill {list(self.shape)}")
        kind = dtype_of(self.name, self.dtype).kind
        if kind != "float" and any(value != value // 1 for value in self.values):
            raise UsageError(f"{self.name}: {self.dtype} holds whole numbers")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        """Return the spec, without a name.

        Raises:
            UsageError: there are inputs.
        """
        expect_count(self.name, specs, 0)
        return TensorSpec("", self.shape, dtype_of(self.name, self.dtype))

    def run(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the new tensor, on the CPU."""
        import torch

        del values
        made = torch.tensor(self.values, dtype=torch.float64, device="cpu")
        return made.to(torch_dtype(self.dtype)).reshape(self.shape)

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        """Return nothing: there are no inputs."""
        self.out_spec(specs)
        return ()

    def describe(self) -> str:
        """Return the words for the report."""
        return f"{len(self.values)} given values"
