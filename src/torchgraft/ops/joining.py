"""Ops that put tensors side by side without changing an element, and the one that puts zeros between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import prod

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, axis_words, replaced, with_shape
from torchgraft.ops.exact import Index, SelectRows, SliceDim, gather, inverse_permutation
from torchgraft.ops.runs import Run, joined


def _expect_alike(op: BaseOp, specs: Sequence[TensorSpec]) -> None:
    """Raise UsageError unless there are inputs and they share one element type."""
    op.expect(specs, "it takes at least one tensor", that=len(specs) > 0)
    kinds = sorted({str(s.dtype) for s in specs})
    op.expect(specs, f"their element types differ: {', '.join(kinds)}", that=len(kinds) == 1)


@dataclass(frozen=True, slots=True)
class Concat(BaseOp):
    """Joins tensors along a dimension that they have."""

    dim: int

    name = "concat"
    lossless = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        _expect_alike(self, specs)
        self.expect_dim(specs, self.dim)
        rest = {replaced(s.shape, self.dim, 0) for s in specs}
        need = f"all sizes but that of dimension {self.dim} must be equal"
        self.expect(specs, need, that=len(rest) == 1)
        return with_shape(specs[0], replaced(specs[0].shape, self.dim, sum(s.shape[self.dim] for s in specs)))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        return torch.cat(list(values), self.dim)

    def runs(self, specs: Sequence[TensorSpec], given: Sequence[Sequence[Run]]) -> list[Run] | None:
        return joined(given) if prod(specs[0].shape[: self.dim]) == 1 else None

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        whole = self.out_spec(specs).shape[self.dim]
        ends = list(accumulate((s.shape[self.dim] for s in specs), initial=0))
        return tuple(SliceDim(self.dim, a, b, whole) for a, b in pairwise(ends))

    def describe(self) -> str:
        return f"joined along {axis_words(self.dim)}"


@dataclass(frozen=True, slots=True)
class Stack(BaseOp):
    """Joins tensors of one shape along a new dimension: single experts into a stack."""

    dim: int

    name = "stack"
    lossless = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        _expect_alike(self, specs)
        shape = specs[0].shape
        self.expect(specs, "all shapes must be equal", that=len({s.shape for s in specs}) == 1)
        self.expect(specs, f"no new dimension {self.dim} fits", that=0 <= self.dim <= len(shape))
        return with_shape(specs[0], (*shape[: self.dim], len(specs), *shape[self.dim :]))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        return torch.stack(list(values), self.dim)

    def runs(self, specs: Sequence[TensorSpec], given: Sequence[Sequence[Run]]) -> list[Run] | None:
        return joined(given) if prod(specs[0].shape[: self.dim]) == 1 else None

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        return tuple(Index(self.dim, i) for i in range(len(specs)))

    def describe(self) -> str:
        return f"stacked along a new dim {self.dim}"


@dataclass(frozen=True, slots=True)
class JoinRanks(BaseOp):
    """Joins what tensor-parallel ranks hold of one weight, in rank order.

    `kind` "rows" (column-parallel layers: output features split) and "columns" (row-parallel layers: input features
    split) simply join. "parts" is for fused rows of which every rank holds its share of each part, q then k then v:
    `parts` gives their relative sizes, (1, 1, 1), or (4, 1, 1) with four query heads per key head; the result has
    all of part 0, then all of part 1, ... Layouts as in Megatron-LM's column- and row-parallel linear layers.
    """

    kind: str
    parts: tuple[int, ...] = ()

    name = "join_ranks"
    lossless = True

    def __post_init__(self) -> None:
        self.expect_choice("kind", self.kind, ("rows", "columns", "parts"))
        if (self.kind == "parts") != bool(self.parts) or any(p < 1 for p in self.parts):
            raise UsageError(f"join_ranks: kind {self.kind!r} doesn't go with parts {list(self.parts)}")

    @property
    def _concat(self) -> Concat:
        return Concat(1 if self.kind == "columns" else 0)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        _expect_alike(self, specs)
        self.expect_dim(specs, self._concat.dim)
        out = self._concat.out_spec(specs)
        if self.kind == "parts":
            fits = len({s.shape for s in specs}) == 1 and specs[0].shape[0] % sum(self.parts) == 0
            need = f"every rank needs the same number of rows, a multiple of {sum(self.parts)}"
            self.expect(specs, need, that=fits)
        return out

    def run(self, values: Sequence[Tensor]) -> Tensor:
        if self.kind != "parts":
            return self._concat.run(values)
        ranks, rows = len(values), values[0].shape[0]
        order = [i for rank in self._rows_of(ranks, rows) for i in rank]
        return gather(self._concat.run(values), 0, inverse_permutation(order))

    def _rows_of(self, ranks: int, rows: int) -> list[tuple[int, ...]]:
        """Return, for each rank, where its `rows` rows lie in the whole."""
        unit = rows // sum(self.parts)
        starts = list(accumulate((p * unit * ranks for p in self.parts), initial=0))
        return [
            tuple(s + r * p * unit + j for s, p in zip(starts, self.parts, strict=False) for j in range(p * unit))
            for r in range(ranks)
        ]

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        if self.kind != "parts":
            return self._concat.inverse(specs)
        return tuple(SelectRows(0, rows) for rows in self._rows_of(len(specs), specs[0].shape[0]))

    def describe(self) -> str:
        what = f"{len(self.parts)} parts" if self.kind == "parts" else self.kind
        return f"{what} of the ranks joined"


@dataclass(frozen=True, slots=True)
class InsertZeros(BaseOp):
    """Inserts `count` zero indices along a dimension, before index `at`: the missing k bias between q and v."""

    dim: int
    at: int
    count: int

    name = "insert_zeros"
    lossless = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        size = self.size_along(specs, self.dim)
        need = f"{self.count} zeros can't go before index {self.at} of dimension {self.dim}"
        self.expect(specs, need, that=0 <= self.at <= size and self.count >= 0)
        return with_shape(specs[0], replaced(specs[0].shape, self.dim, size + self.count))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        value = values[0]
        zeros = value.new_zeros(replaced(tuple(value.shape), self.dim, self.count))
        after = value.shape[self.dim] - self.at
        return torch.cat([value.narrow(self.dim, 0, self.at), zeros, value.narrow(self.dim, self.at, after)], self.dim)

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        size = self.out_spec(specs).shape[self.dim]
        return (SelectRows(self.dim, (*range(self.at), *range(self.at + self.count, size))),)

    def describe(self) -> str:
        return f"{self.count} zeros inserted at {axis_words(self.dim)} {self.at}:{self.at + self.count}"
