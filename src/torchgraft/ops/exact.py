"""Ops that move the elements of one tensor without changing any: turn, reshape, cut out, pick, cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torchgraft.core.errors import UsageError
from torchgraft.core.formatting import runs_words
from torchgraft.core.plan import Picked
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import ScalarType, Tensor
from torchgraft.ops.base import BaseOp, axis_words, replaced, with_shape
from torchgraft.ops.runs import Run, cut, inner, picked


@dataclass(frozen=True, slots=True)
class Transpose(BaseOp):
    """Turns a matrix: [in, out] becomes [out, in]."""

    name = "transpose"
    lossless = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 1)
        self.expect(specs, "it takes one matrix", that=len(specs[0].shape) == 2)
        return with_shape(specs[0], specs[0].shape[::-1])

    def run(self, values: Sequence[Tensor]) -> Tensor:
        return values[0].t()

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        return (self,)

    def describe(self) -> str:
        return "transpose"


@dataclass(frozen=True, slots=True)
class Permute(BaseOp):
    """Reorders dimensions: dimension i of the result is dimension `dims[i]` of the input."""

    dims: tuple[int, ...]

    name = "permute"
    lossless = True

    def __post_init__(self) -> None:
        if sorted(self.dims) != list(range(len(self.dims))):
            raise UsageError(f"permute: {list(self.dims)} is no order of the dimensions 0 to {len(self.dims) - 1}")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        shape = self.only(specs).shape
        self.expect(specs, f"it takes {len(self.dims)} dimensions", that=len(shape) == len(self.dims))
        return with_shape(specs[0], tuple(shape[d] for d in self.dims))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        return values[0].permute(self.dims)

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        return (Permute(tuple(inverse_permutation(self.dims))),)

    def describe(self) -> str:
        return f"permute {', '.join(map(str, self.dims))}"


@dataclass(frozen=True, slots=True)
class Reshape(BaseOp):
    """Gives the same elements, in the same order, another shape."""

    shape: tuple[int, ...]

    name = "reshape"
    lossless = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 1)
        fits = specs[0].numel == prod(self.shape) and all(n >= 0 for n in self.shape)
        self.expect(specs, f"the result {list(self.shape)} has another number of elements", that=fits)
        return with_shape(specs[0], self.shape)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        return values[0].reshape(self.shape)

    def runs(self, specs: Sequence[TensorSpec], given: Sequence[Sequence[Run]]) -> list[Run] | None:
        del specs
        return list(given[0])

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        return (Reshape(specs[0].shape),)

    def describe(self) -> str:
        return f"reshape to {list(self.shape)}"


@dataclass(frozen=True, slots=True)
class SliceDim(BaseOp):
    """Cuts out the indices `start` to `stop` (exclusive) along one dimension. `of`, where given, is its full size."""

    dim: int
    start: int
    stop: int
    of: int | None = None

    name = "slice"

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        size = self.size_along(specs, self.dim)
        need = f"{self.start}:{self.stop} is no part of dimension {self.dim}"
        self.expect(specs, need, that=0 <= self.start <= self.stop <= size)
        self.expect(specs, f"dimension {self.dim} should be {self.of}", that=self.of in (None, size))
        return with_shape(specs[0], replaced(specs[0].shape, self.dim, self.stop - self.start))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        return values[0].narrow(self.dim, self.start, self.stop - self.start)

    def runs(self, specs: Sequence[TensorSpec], given: Sequence[Sequence[Run]]) -> list[Run] | None:
        row = inner(specs[0].shape, self.dim)
        return None if row is None else cut(given[0], self.start * row, self.stop * row)

    @property
    def picks(self) -> tuple[Picked, ...]:
        return (Picked(self.dim, range(self.start, self.stop)),)

    def describe(self) -> str:
        whole = "" if self.of is None else f" of {self.of}"
        return f"{axis_words(self.dim)} {self.start}:{self.stop}{whole}"


@dataclass(frozen=True, slots=True)
class SelectRows(BaseOp):
    """Picks indices along one dimension, in the given order; an index may come again."""

    dim: int
    indices: tuple[int, ...]

    name = "select"

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        size = self.size_along(specs, self.dim)
        wrong = next((i for i in self.indices if not 0 <= i < size), None)
        self.expect(specs, f"there is no index {wrong} along dimension {self.dim}", that=wrong is None)
        return with_shape(specs[0], replaced(specs[0].shape, self.dim, len(self.indices)))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the picked indices as a new tensor."""
        return gather(values[0], self.dim, self.indices)

    def runs(self, specs: Sequence[TensorSpec], given: Sequence[Sequence[Run]]) -> list[Run] | None:
        return picked(specs[0].shape, self.dim, self.indices, given[0])

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        size = specs[0].shape[self.dim]
        whole = sorted(self.indices) == list(range(size))
        self.expect(specs, "the indices are no permutation", that=whole, what=f"the inverse of {self.name}")
        return (SelectRows(self.dim, tuple(inverse_permutation(self.indices))),)

    @property
    def picks(self) -> tuple[Picked, ...]:
        return (Picked(self.dim, self.indices),)

    def describe(self) -> str:
        return f"{axis_words(self.dim)} {runs_words(self.indices)}"


@dataclass(frozen=True, slots=True)
class Index(BaseOp):
    """Takes one index along a dimension and drops that dimension: expert `i` of a stack of experts."""

    dim: int
    i: int

    name = "index"

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 1)
        self.expect_dim(specs, self.dim)
        shape = specs[0].shape
        need = f"there is no index {self.i} along dimension {self.dim}"
        self.expect(specs, need, that=0 <= self.i < shape[self.dim])
        return with_shape(specs[0], (*shape[: self.dim], *shape[self.dim + 1 :]))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        return values[0].select(self.dim, self.i)

    def runs(self, specs: Sequence[TensorSpec], given: Sequence[Sequence[Run]]) -> list[Run] | None:
        return picked(specs[0].shape, self.dim, (self.i,), given[0])

    @property
    def picks(self) -> tuple[Picked, ...]:
        return (Picked(self.dim, (self.i,)),)

    def describe(self) -> str:
        return f"index {self.i} along dim {self.dim}"


@dataclass(frozen=True, slots=True)
class Cast(BaseOp):
    """Converts the elements to another type, rounding as torch does."""

    dtype: str

    name = "cast"

    def __post_init__(self) -> None:
        self.dtype_of(self.dtype)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 1)
        return type(specs[0])(specs[0].name, specs[0].shape, self.dtype_of(self.dtype))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the converted tensor, the input itself where it has the type already."""
        return values[0].to(torch_dtype(self.dtype))

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        """Return the cast back.

        Raises:
            UsageError: the type can't hold every value of the input's.
        """
        target, source = self.out_spec(specs).dtype, specs[0].dtype
        need = f"{target} can't hold every {source}"
        self.expect(specs, need, that=target.holds(source), what=f"the inverse of {self.name}")
        return (Cast(source.label),)

    def describe(self) -> str:
        return f"cast to {self.dtype.removeprefix('torch.')}"


def torch_dtype(label: str) -> ScalarType:
    """Return the torch element type called `label` (with or without `torch.`)."""
    import torch

    dtype: ScalarType = getattr(torch, label.removeprefix("torch."))
    return dtype


def inverse_permutation(order: Sequence[int]) -> list[int]:
    """Return the permutation that undoes `order`."""
    return sorted(range(len(order)), key=order.__getitem__)


def gather(value: Tensor, dim: int, indices: Sequence[int]) -> Tensor:
    """Return `value` with these indices along `dim`, in their order, as a new tensor."""
    import torch

    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
    moved = value.view(signed.get(value.dtype, value.dtype))  # older versions, such as 2.9, pick none of unsigned ones
    return moved.index_select(dim, torch.tensor(indices, dtype=torch.long, device=value.device)).view(value.dtype)
