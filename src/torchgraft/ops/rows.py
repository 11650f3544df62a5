"""Ops that lengthen a table: vocabularies, class heads, position tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, axis_words, replaced, with_shape, working_dtype
from torchgraft.ops.exact import SliceDim


@dataclass(frozen=True, slots=True, kw_only=True)
class _Longer(BaseOp):
    """A table of `source` indices along `dim` that gets more of them at its end, `target` in all."""

    source: int
    target: int
    dim: int = 0

    lossless = True

    def __post_init__(self) -> None:
        if not 0 <= self.source <= self.target:
            raise UsageError(f"{self.name}: a table of {self.target} has no part of {self.source}")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        size = self.size_along(specs, self.dim)
        self.expect(specs, f"dimension {self.dim} should be {self.source}", that=size == self.source)
        return with_shape(specs[0], replaced(specs[0].shape, self.dim, self.target))

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        return (SliceDim(self.dim, 0, self.source, self.target),)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRows(_Longer):
    """Lengthens a table along `dim` by copies of its mean: new words of a vocabulary start as the average word.

    After Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models". Computes in float32.
    """

    name = "mean_rows"
    rounds = True

    def __post_init__(self) -> None:
        _Longer.__post_init__(self)
        self.expect_sizes("source", (self.source,))

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_float(specs)
        return _Longer.out_spec(self, specs)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        table = values[0]
        mean = table.mean(self.dim, keepdim=True, dtype=working_dtype(values)).to(table.dtype)
        return torch.cat([table, mean.repeat_interleave(self.target - self.source, self.dim)], self.dim)

    def describe(self) -> str:
        return f"{axis_words(self.dim)} {self.source} -> {self.target}, new ones the mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class PadRows(_Longer):
    """Lengthens a table along `dim` by one value."""

    value: float = 0.0

    name = "pad_rows"

    def run(self, values: Sequence[Tensor]) -> Tensor:
        out = values[0].new_empty(replaced(tuple(values[0].shape), self.dim, self.target))
        out.narrow(self.dim, 0, self.source).copy_(values[0])
        out.narrow(self.dim, self.source, self.target - self.source).fill_(self.value)
        return out

    def describe(self) -> str:
        return f"{axis_words(self.dim)} {self.source} -> {self.target}, new ones {self.value:g}"
