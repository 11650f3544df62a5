"""Ops between a weight and what it is parametrized by: weight norm, spectral norm, pruning masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torchgraft.core.errors import CorruptCheckpointError
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, widened, with_shape


def _gain_shape(shape: Shape, dim: int | None) -> Shape:
    """Return the shape of the norms of a weight of `shape`: 1 everywhere but at `dim`; a scalar without `dim`."""
    return () if dim is None else tuple(n if d == dim else 1 for d, n in enumerate(shape))


def _norms(weight: Tensor, dim: int | None) -> Tensor:
    """Return the 2-norm over all dimensions but `dim` (over all of them without `dim`)."""
    import torch

    if dim is None:
        norm: Tensor = torch.linalg.vector_norm(weight)
        return norm
    others = [d for d in range(weight.dim()) if d != dim]
    return torch.linalg.vector_norm(weight, dim=others, keepdim=True) if others else weight.abs()


@dataclass(frozen=True, slots=True)
class WeightNormBake(BaseOp):
    """Joins magnitude and direction, (g, v), to the weight g * v / |v|.

    |v| is the norm over all dimensions but `dim` (None: over all). Weight normalization, Salimans and Kingma 2016
    (arXiv:1602.07868); torch.nn.utils.weight_norm and its parametrization, `original0` and `original1`. Computes in
    float32, returns v's type.
    """

    dim: int | None

    name = "weight_norm_bake"
    rounds = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 2)
        g, v = specs
        if self.dim is not None:
            self.expect_dim([v], self.dim)
        each = "" if self.dim is None else f" for each index of v's dimension {self.dim}"
        need = f"g should hold one magnitude{each}"
        self.expect(specs, need, that=g.numel == prod(_gain_shape(v.shape, self.dim)))
        self.expect_float(specs)
        return type(g)(g.name, v.shape, v.dtype)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        g, v = widened(values)
        gain = g.reshape(_gain_shape(tuple(v.shape), self.dim)) / _norms(v, self.dim)
        return (v * gain).to(values[1].dtype)

    def describe(self) -> str:
        return f"weight norm joined over {'all' if self.dim is None else f'dim {self.dim}'}"


@dataclass(frozen=True, slots=True)
class WeightNormSplit(BaseOp):
    """Takes the magnitude ("g") or the direction ("v") out of a weight: undoes weight norm's joining.

    g is the norm over all dimensions but `dim` (None: over all), v the weight itself, as
    torch.nn.utils.parametrizations.weight_norm initialises them. Computes in float32.
    """

    part: str
    dim: int | None

    name = "weight_norm_split"
    rounds = True

    def __post_init__(self) -> None:
        self.expect_choice("part", self.part, ("g", "v"))

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 1)
        if self.dim is not None:
            self.expect_dim(specs, self.dim)
        self.expect_float(specs)
        return specs[0] if self.part == "v" else with_shape(specs[0], _gain_shape(specs[0].shape, self.dim))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        if self.part == "v":
            return values[0]
        return _norms(widened(values)[0], self.dim).to(values[0].dtype)

    def describe(self) -> str:
        return f"weight norm split, {'magnitude' if self.part == 'g' else 'direction'}"


# The power iteration leaves u along W v; a step of training turns it a little.
_ALONG = 0.9


def _along(a: Tensor, b: Tensor) -> float:
    """Return the cosine between two vectors, without its sign."""
    return abs(float(a @ b)) / max(float(a.norm() * b.norm()), 1e-12)


@dataclass(frozen=True, slots=True)
class SpectralNormBake(BaseOp):
    """Divides a weight by its largest singular value: (w, u, v) becomes w / (u · W v).

    W is the weight with `dim` first and the rest flat; u and v are the singular vectors that the power iteration
    left in the file. Spectral normalization, Miyato et al. 2018 (arXiv:1802.05957); torch.nn.utils.spectral_norm.
    Computes in float32, returns w's type.
    """

    dim: int = 0

    name = "spectral_norm_bake"
    rounds = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 3)
        w, u, v = specs
        self.expect_dim([w], self.dim)
        high = w.shape[self.dim]
        wide = prod(n for d, n in enumerate(w.shape) if d != self.dim)
        fits = u.shape == (high,) and v.shape == (wide,)
        self.expect(specs, f"u and v should have {high} and {wide} elements", that=fits)
        self.expect_float(specs)
        return w

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the normalised weight.

        Raises:
            CorruptCheckpointError: the vectors are those of the turned matrix, as shapes don't tell of one with equal sides.
        """
        w, u, v = widened(values)
        matrix = w.movedim(self.dim, 0).flatten(1)
        sigma = u @ (matrix @ v)
        if w.dim() == 2 and u.shape == v.shape and _along(matrix @ v, u) < _ALONG < _along(matrix.t() @ v, u):
            raise CorruptCheckpointError(
                f"the vectors of a spectral norm over a square weight fit its other dimension better than {self.dim}: take the norm "
                "off with torch before saving"
            )
        return (w / sigma).to(values[0].dtype)

    def describe(self) -> str:
        return "spectral norm divided out"


@dataclass(frozen=True, slots=True)
class ApplyMask(BaseOp):
    """Multiplies a weight by its pruning mask: (weight_orig, weight_mask) of torch.nn.utils.prune."""

    name = "apply_mask"

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 2)
        self.expect(specs, "the shapes must be equal", that=specs[0].shape == specs[1].shape)
        self.expect_float(specs[:1])
        return specs[0]

    def run(self, values: Sequence[Tensor]) -> Tensor:
        weight, mask = values
        return (weight * mask).to(weight.dtype)

    def describe(self) -> str:
        return "pruning mask applied"


@dataclass(frozen=True, slots=True)
class Offset(BaseOp):
    """Adds a number to every element: a norm's scale, and how much it is above one. Computes in float32."""

    by: float

    name = "offset"
    rounds = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        spec = self.only(specs)
        self.expect_float(specs)
        return spec

    def run(self, values: Sequence[Tensor]) -> Tensor:
        (value,) = widened(values)
        return (value + self.by).to(values[0].dtype)

    def describe(self) -> str:
        return f"{abs(self.by):g} {'added' if self.by > 0 else 'taken off'}"
