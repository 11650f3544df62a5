"""Ops that add a low-rank adapter to the weight it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, working_dtype


def _rank_fits(base: TensorSpec, up: TensorSpec, down: TensorSpec) -> bool:
    """Return whether `up` times `down`, each flattened to a matrix, has as many elements as `base`, and its rows."""
    if not (base.shape and up.shape and down.shape and up.shape[0] == base.shape[0]):
        return False
    rank, inner = prod(up.shape[1:]), prod(down.shape[1:])
    return rank == down.shape[0] and base.shape[0] * inner == base.numel


def _product(up: Tensor, down: Tensor) -> Tensor:
    """Return the matrix product of both, flattened behind their first dimension: [out, in * cells]."""
    return up.flatten(1) @ down.flatten(1)


def _strength(scale: float, rank: int, alpha: Sequence[Tensor]) -> float:
    """Return the factor of the product: `scale`, times alpha / rank where the file holds an alpha."""
    return scale * float(alpha[0]) / rank if alpha else scale


@dataclass(frozen=True, slots=True)
class LoraMerge(BaseOp):
    """Adds a low-rank product to a weight: (base, up, down[, alpha]) becomes base + scale * up @ down.

    up is [out, rank] and down [rank, in]; convolutions have down [rank, in, height, width] and up [out, rank, 1, 1].
    With the scalar alpha of the kohya files the product is also multiplied by alpha / rank; PEFT's files leave
    `scale` = lora_alpha / r to the configuration. LoRA, Hu et al. 2021 (arXiv:2106.09685). For weights stored
    [in, out] and embeddings, give the transposed down as up and the transposed up as down. Computes in float32,
    returns the base's type. Holds the product in float32 beside the result.
    """

    scale: float = 1.0

    name = "lora_merge"
    rounds = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 3, 4)
        base, up, down = specs[:3]
        need = "up [out, rank] and down [rank, in, ...] should make a base [out, in, ...]"
        self.expect(specs, need, that=_rank_fits(base, up, down))
        self.expect(specs, "alpha should be a scalar", that=all(s.numel == 1 for s in specs[3:]))
        self.expect_float(specs[:3])
        return base

    def run(self, values: Sequence[Tensor]) -> Tensor:
        base, dtype = values[0], working_dtype(values[:3])
        up, down = (v.to(dtype) for v in values[1:3])
        delta = _product(up, down).mul_(_strength(self.scale, down.shape[0], values[3:]))
        return delta.reshape(base.shape).add_(base).to(base.dtype)

    def describe(self) -> str:
        return "low-rank adapter added" + ("" if self.scale == 1 else f", scale {self.scale:g}")


@dataclass(frozen=True, slots=True)
class DoraMerge(BaseOp):
    """Adds a low-rank product and sets the length of each row: (base, up, down, magnitude[, alpha]).

    The result is m * W / |W| with W = base + scale * up @ down and |W| the norm of each output row, or with `dim` 1 of all that
    reads an input channel. DoRA, Liu et al. 2024 (arXiv:2402.09353); PEFT's `use_dora`, LyCORIS' `dora_wd` with `wd_on_output`
    or without. Computes in float32, returns the base's type.
    """

    scale: float = 1.0
    dim: int = 0

    name = "dora_merge"
    rounds = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 4, 5)
        base, up, down, magnitude = specs[:4]
        self.expect_dim([base], self.dim)
        one = "row" if self.dim == 0 else "input channel"
        need = f"up [out, rank], down [rank, in, ...] and one magnitude per {one} should go with a base [out, in, ...]"
        fits = _rank_fits(base, up, down) and magnitude.numel == base.shape[self.dim]
        self.expect(specs, need, that=fits)
        self.expect(specs, "alpha should be a scalar", that=all(s.numel == 1 for s in specs[4:]))
        self.expect_float(specs[:4])
        return base

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        base, dtype = values[0], working_dtype(values[:4])
        up, down, magnitude = (v.to(dtype) for v in values[1:4])
        weight = (
            _product(up, down).mul_(_strength(self.scale, down.shape[0], values[4:])).reshape(base.shape).add_(base)
        )
        others = [d for d in range(weight.dim()) if d != self.dim]
        shape = [-1 if d == self.dim else 1 for d in range(weight.dim())]
        weight.mul_(magnitude.reshape(shape) / torch.linalg.vector_norm(weight, dim=others, keepdim=True))
        return weight.to(base.dtype)

    def describe(self) -> str:
        return f"low-rank adapter added, {'rows' if self.dim == 0 else 'input channels'} set to their magnitude"


@dataclass(frozen=True, slots=True)
class LohaMerge(BaseOp):
    """Adds an element-wise product of two low-rank products: (base, up1, down1, up2, down2[, alpha]).

    The result is base + scale * alpha / rank * (up1 @ down1) * (up2 @ down2); hada_w1_a, hada_w1_b, hada_w2_a,
    hada_w2_b of the LyCORIS files. FedPara, Hyeon-Woo et al. 2022 (arXiv:2108.06098). Computes in float32.
    """

    scale: float = 1.0

    name = "loha_merge"
    rounds = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 5, 6)
        base = specs[0]
        fits = all(_rank_fits(base, specs[i], specs[i + 1]) for i in (1, 3))
        need = "both up [out, rank] and down [rank, in, ...] should make a base [out, in, ...]"
        self.expect(specs, need, that=fits)
        self.expect(specs, "alpha should be a scalar", that=all(s.numel == 1 for s in specs[5:]))
        self.expect_float(specs[:5])
        return base

    def run(self, values: Sequence[Tensor]) -> Tensor:
        base, dtype = values[0], working_dtype(values[:5])
        up, down, up2, down2 = (v.to(dtype) for v in values[1:5])
        delta = _product(up, down).mul_(_product(up2, down2))
        delta.mul_(_strength(self.scale, down.shape[0], values[5:]))
        return delta.reshape(base.shape).add_(base).to(base.dtype)

    def describe(self) -> str:
        return "Hadamard low-rank adapter added" + ("" if self.scale == 1 else f", scale {self.scale:g}")
