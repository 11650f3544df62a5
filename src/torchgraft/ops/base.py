"""What every op is: a frozen value with a shape law, a computation, an inverse where there is one, and a plain form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, ClassVar

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Picked
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.core.types import ScalarType, Tensor
from torchgraft.ops.runs import Run


class BaseOp(ABC):
    """Base of all ops. Subclasses are frozen, slotted dataclasses of plain fields (numbers, strings, tuples).

    What each method promises is said here; a subclass says in its docstring what the op does, and where that comes from.
    `rounds`: the result is computed, and then rounded to the type of an input.
    """

    __slots__ = ()

    name: ClassVar[str]
    lossless: ClassVar[bool] = False
    rounds: ClassVar[bool] = False

    @abstractmethod
    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        """Return the spec of the result (named after the first input).

        Raises:
            UsageError: the inputs don't fit.
        """

    @abstractmethod
    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the result; inputs are never changed. May return a view of an input.

        Ops that compute do so in float32 (float64 where an input has it), and return the type of the first input where they say
        no other.
        """

    def runs(self, specs: Sequence[TensorSpec], given: Sequence[Sequence[Run]]) -> list[Run] | None:
        """Return the result as runs of elements of what `given` are runs of, None where it isn't made of such.

        Only ops that move whole stretches of memory have an answer: their work can be left to the reading.
        """
        del specs, given
        return None

    @property
    def picks(self) -> tuple[Picked, ...]:
        """The part of its input that it takes, axis by axis, where it leaves out the rest; empty: it takes all."""
        return ()

    @abstractmethod
    def describe(self) -> str:
        """Return a few words for the report."""

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        """Return one op per input, each taking the output back to that input.

        Raises:
            UsageError: the op has no inverse.
        """
        del specs
        raise UsageError(f"{self.name} has no inverse")

    def to_dict(self) -> dict[str, object]:
        """Return `{"op": name, field: value, ...}` with plain values."""
        data: dict[str, Any] = {"op": self.name}
        for f in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            value = getattr(self, f.name)
            data[f.name] = list(value) if isinstance(value, tuple) else value
        return data

    # -- what the inputs and the fields of an op must be: each raises UsageError, naming the op, where they aren't

    def expect(self, specs: Sequence[TensorSpec], need: str, *, that: bool, what: str = "") -> None:
        """Refuse these inputs unless `that` holds: `need` says what the op (or `what`, its inverse, say) takes."""
        if not that:
            shapes = ", ".join(str(list(s.shape)) for s in specs) or "no inputs"
            raise UsageError(f"{what or self.name} can't take {shapes}: {need}")

    def expect_count(self, specs: Sequence[TensorSpec], *counts: int) -> None:
        """Refuse inputs whose number is none of `counts`."""
        accepted = " or ".join(str(c) for c in counts) + (" tensor" if counts == (1,) else " tensors")
        self.expect(specs, f"it takes {accepted}, not {len(specs)}", that=len(specs) in counts)

    def only(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        """Return the only input; refuse any other number of them."""
        self.expect_count(specs, 1)
        return specs[0]

    def size_along(self, specs: Sequence[TensorSpec], dim: int) -> int:
        """Return the size of the only input along `dim`; refuse it where it has no such dimension."""
        self.expect_dim([self.only(specs)], dim)
        return specs[0].shape[dim]

    def expect_dim(self, specs: Sequence[TensorSpec], dim: int) -> None:
        """Refuse inputs that have no dimension `dim`."""
        self.expect(specs, f"there is no dimension {dim}", that=all(0 <= dim < len(s.shape) for s in specs))

    def expect_float(self, specs: Sequence[TensorSpec]) -> None:
        """Refuse inputs that hold something else than real floating-point numbers."""
        kinds = ", ".join(str(s.dtype) for s in specs)
        self.expect(specs, f"it computes on floats, not {kinds}", that=all(s.dtype.is_float for s in specs))

    def expect_choice(self, field: str, value: str, choices: Iterable[str]) -> None:
        """Refuse a `value` that is none of `choices`."""
        if value not in choices:
            raise UsageError(f"{self.name}: {field} is {value!r}; accepted are {', '.join(map(repr, choices))}")

    def expect_sizes(self, field: str, sizes: Shape, *, least: int = 1) -> None:
        """Refuse `sizes` below `least`."""
        if any(n < least for n in sizes):
            raise UsageError(f"{self.name}: {field} is {list(sizes)}; sizes of at least {least} are accepted")

    def dtype_of(self, label: str) -> DType:
        """Return the element type called `label`; refuse what is none."""
        try:
            return DType.of(label)
        except KeyError:
            raise UsageError(f"{self.name}: there is no element type {label!r}") from None


def with_shape(spec: TensorSpec, shape: Shape) -> TensorSpec:
    """Return `spec` with another shape."""
    return type(spec)(spec.name, shape, spec.dtype)


def replaced(shape: Shape, dim: int, size: int) -> Shape:
    """Return `shape` with `size` at `dim`."""
    return (*shape[:dim], size, *shape[dim + 1 :])


def without(shape: Shape, dim: int) -> Shape:
    """Return `shape` without `dim`."""
    return (*shape[:dim], *shape[dim + 1 :])


def working_dtype(values: Sequence[Tensor]) -> ScalarType:
    """Return the type to compute in: float64 where an input has it, float32 otherwise."""
    import torch

    return torch.float64 if any(v.dtype is torch.float64 for v in values) else torch.float32


def widened(values: Sequence[Tensor]) -> list[Tensor]:
    """Return all values in the type to compute in (see `working_dtype`)."""
    dtype = working_dtype(values)
    return [v.to(dtype) for v in values]


def axis_words(dim: int) -> str:
    """Return what indices along `dim` are called in a report."""
    return "rows" if dim == 0 else f"dim {dim}"
