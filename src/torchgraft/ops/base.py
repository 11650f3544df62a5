"""What every op is: a frozen value with a shape law, a computation, an inverse where there is one, and a plain form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

from torchgraft.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from torchgraft.core.specs import Shape, TensorSpec


class BaseOp(ABC):
    """Base of all ops. Subclasses are frozen, slotted dataclasses of plain fields (numbers, strings, tuples)."""

    name: ClassVar[str]
    lossless: ClassVar[bool] = False

    @abstractmethod
    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        """Return the spec of the result (named after the first input).

        Raises:
            UsageError: the inputs don't fit.
        """

    @abstractmethod
    def run(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the result; inputs are never changed. May return a view of an input."""

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


def expect(*, that: bool, op: str, specs: Sequence[TensorSpec], need: str) -> None:
    """Raise UsageError naming the op, the shapes that came in and what it needs, unless `that` holds."""
    if not that:
        shapes = ", ".join(str(list(s.shape)) for s in specs)
        raise UsageError(f"{op} can't take {shapes}: {need}")


def with_shape(spec: TensorSpec, shape: Shape) -> TensorSpec:
    """Return `spec` with another shape."""
    return type(spec)(spec.name, shape, spec.dtype)
