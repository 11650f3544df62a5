"""Ops that lengthen or shorten a table: vocabularies, class heads, position tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, axis_words, replaced, with_shape, working_dtype
from torchgraft.ops.exact import SliceDim


def _resized(op: BaseOp, specs: Sequence[TensorSpec], dim: int, source: int, target: int) -> TensorSpec:
    """Return the single input's spec with `target` instead of `source` indices along `dim` (UsageError otherwise)."""
    op.expect_count(specs, 1)
    op.expect_dim(specs, dim)
    op.expect(specs, f"dimension {dim} should be {source}", that=specs[0].shape[dim] == source)
    return with_shape(specs[0], replaced(specs[0].shape, dim, target))


def _expect_change(op: str, small: int, large: int) -> None:
    """Raise UsageError unless the sizes are in order."""
    if not 0 <= small <= large:
        raise UsageError(f"{op}: a table of {large} has no part of {small}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Longer(BaseOp):
    """A table of `source` indices along `dim` that gets more of them at its end, `target` in all."""

    source: int
    target: int
    dim: int = 0

    lossless = True

    def __post_init__(self) -> None:
        _expect_change(self.name, self.source, self.target)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        return _resized(self, specs, self.dim, self.source, self.target)

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        return (SliceDim(self.dim, 0, self.source, self.target),)


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanRows(_Longer):
    """Lengthens a table along `dim` by copies of its mean: new words of a vocabulary start as the average word.

    After Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models". `known` says how many
    leading rows the mean is taken of (None: all; fewer when the table ends in padding rows). Computes in float32.
    """

    known: int | None = None

    name = "mean_rows"
    rounds = True

    def __post_init__(self) -> None:
        _Longer.__post_init__(self)
        if not 1 <= (self.source if self.known is None else self.known) <= self.source:
            raise UsageError(f"{self.name}: there is no mean of {self.known} of {self.source} rows")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_float(specs)
        return _Longer.out_spec(self, specs)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        table = values[0]
        known = table.narrow(self.dim, 0, self.source if self.known is None else self.known)
        mean = known.mean(self.dim, keepdim=True, dtype=working_dtype(values)).to(table.dtype)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TrimRows(BaseOp):
    """Shortens a table along `dim` by its last indices: the padding that some trainers add to a vocabulary."""

    source: int
    target: int
    dim: int = 0

    name = "trim_rows"

    def __post_init__(self) -> None:
        _expect_change(self.name, self.target, self.source)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        return _resized(self, specs, self.dim, self.source, self.target)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        return values[0].narrow(self.dim, 0, self.target)

    def describe(self) -> str:
        return f"{axis_words(self.dim)} {self.source} -> {self.target}, the last {self.source - self.target} left out"
