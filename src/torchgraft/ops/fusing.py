"""Ops that fold a batch norm into the convolution before it, and parallel branches into one convolution.

A norm in evaluation is y = (x - mean) * gamma / sqrt(var + eps) + beta, so behind a convolution it scales the
kernel's output channels and shifts the bias (torch.nn.utils.fusion). Parallel branches are linear in the same input,
so their kernels, padded to one size, and their biases add up; an identity branch is a kernel with a single one.
Structural re-parametrization: RepVGG, Ding et al. 2021 (arXiv:2101.03697).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, widened, with_shape
from torchgraft.ops.channels import middle
from torchgraft.ops.resample import size_words

T = TypeVar("T")

# how many tensors each kind of branch brings, in this order: kernel, bias, then gamma, beta, mean, variance
_BRANCH = {"conv": 1, "conv+bias": 2, "conv+norm": 5, "conv+bias+norm": 6, "norm": 4}


@dataclass(frozen=True, slots=True)
class FuseNormWeight(BaseOp):
    """Folds a norm into the weight before it: (weight, gamma, variance), or (weight, variance) of a norm without gain.

    `dim` is the weight's dimension of output channels: 0, or 1 for transposed convolutions. Computes in float32.
    """

    eps: float
    dim: int = 0

    name = "fuse_norm_weight"
    rounds = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 2, 3)
        self.expect_dim(specs[:1], self.dim)
        channels = (specs[0].shape[self.dim],)
        fits = all(s.shape == channels for s in specs[1:])
        self.expect(specs, f"the norm should have {channels[0]} channels", that=fits)
        self.expect_float(specs)
        return specs[0]

    def run(self, values: Sequence[Tensor]) -> Tensor:
        weight, *gamma, var = widened(values)
        gain = _gain(gamma, var, self.eps)
        shape = [-1 if d == self.dim else 1 for d in range(weight.dim())]
        return (weight * gain.reshape(shape)).to(values[0].dtype)

    def describe(self) -> str:
        return f"norm folded into the weight, eps {self.eps:g}"


@dataclass(frozen=True, slots=True)
class FuseNormBias(BaseOp):
    """Folds a norm into the bias before it: (bias, gamma, beta, mean, variance).

    Without a bias in the convolution it is left out, without gain and shift in the norm gamma and beta are.
    Computes in float32.
    """

    eps: float

    name = "fuse_norm_bias"
    rounds = True

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 2, 3, 4, 5)
        fits = len({s.shape for s in specs}) == 1 and len(specs[0].shape) == 1
        self.expect(specs, "all should have the same number of channels", that=fits)
        self.expect_float(specs)
        return specs[0]

    def run(self, values: Sequence[Tensor]) -> Tensor:
        *head, mean, var = widened(values)
        bias = [head.pop(0)] if len(values) in (3, 5) else []
        return _shift(bias, [*head, mean, var], self.eps).to(values[0].dtype)

    def describe(self) -> str:
        return f"norm folded into the bias, eps {self.eps:g}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseBranches(BaseOp):
    """Adds up parallel branches to the `part` ("weight" or "bias") of one convolution with a `kernel` of that size.

    `branches` names each branch's kind, and the inputs are their tensors one branch after the other: "conv" (kernel),
    "conv+bias", "conv+norm" (kernel, gamma, beta, mean, variance), "conv+bias+norm", "norm" (an identity branch:
    gamma, beta, mean, variance). Kernels are [out, in / groups, ...] and no larger than `kernel`. Computes in float32.
    """

    kernel: tuple[int, ...]
    branches: tuple[str, ...]
    part: str
    eps: float
    groups: int = 1

    name = "fuse_branches"
    rounds = True

    def __post_init__(self) -> None:
        self.expect_choice("part", self.part, ("weight", "bias"))
        for kind in self.branches:
            self.expect_choice("branch", kind, _BRANCH)
        if not self.branches or not self.kernel or any(n % 2 == 0 for n in self.kernel) or self.groups < 1:
            raise UsageError(f"{self.name}: no branches, or a kernel {list(self.kernel)} without a middle")

    def _cut(self, inputs: Sequence[T]) -> list[Sequence[T]]:
        """Return the inputs of each branch."""
        out, at = [], 0
        for kind in self.branches:
            out.append(inputs[at : at + _BRANCH[kind]])
            at += _BRANCH[kind]
        return out

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, sum(_BRANCH[kind] for kind in self.branches))
        out = specs[0].shape[0] if specs[0].shape else 0
        convs = [b[0] for kind, b in zip(self.branches, self._cut(specs), strict=True) if kind.startswith("conv")]
        inner = convs[0].shape[1] if convs and len(convs[0].shape) > 1 else out // self.groups
        vectors = [s for s in specs if not any(s is c for c in convs)]
        need = f"all branches should have {out} output and {inner} input channels"
        alike = all(s.shape == (out,) for s in vectors) and all(s.shape[:2] == (out, inner) for s in convs)
        identity = "norm" not in self.branches or (out % self.groups == 0 and out == inner * self.groups)
        self.expect(specs, need, that=alike and identity)
        small = all(
            len(s.shape) == 2 + len(self.kernel)
            and all(a <= b and a % 2 == 1 for a, b in zip(s.shape[2:], self.kernel, strict=True))
            for s in convs
        )
        need = f"every kernel should have a middle and fit into {size_words(self.kernel)}"
        self.expect(specs, need, that=small)
        self.expect_float(specs)
        return with_shape(specs[0], (out, inner, *self.kernel) if self.part == "weight" else (out,))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the sum. Holds one kernel of the result's size in float32 beside it."""
        make = self._weight if self.part == "weight" else self._bias
        terms = (make(kind, b) for kind, b in zip(self.branches, self._cut(widened(values)), strict=True))
        total = next(terms)
        for term in terms:
            total = total + term
        return total.to(values[0].dtype)

    def _weight(self, kind: str, branch: Sequence[Tensor]) -> Tensor:
        """Return one branch's kernel, at the result's size."""
        import torch

        if kind == "norm":
            out = branch[0].shape[0]
            kernel = branch[0].new_zeros(out, out // self.groups, *[1] * len(self.kernel))
            rows = torch.arange(out, device=kernel.device)
            kernel[rows, rows % kernel.shape[1]] = 1.0
        else:
            kernel = branch[0]
        if kind.endswith("norm"):
            gain = _gain([branch[-4]], branch[-1], self.eps)
            kernel = kernel * gain.reshape(-1, *[1] * (kernel.dim() - 1))
        padded = kernel.new_zeros((*kernel.shape[:2], *self.kernel))
        padded[middle(tuple(kernel.shape[2:]), self.kernel)] = kernel
        return padded

    def _bias(self, kind: str, branch: Sequence[Tensor]) -> Tensor:
        """Return one branch's bias."""
        bias = [branch[1]] if "bias" in kind else []
        if kind.endswith("norm"):
            return _shift(bias, branch[-4:], self.eps)
        return bias[0] if bias else branch[0].new_zeros(branch[0].shape[0])

    def describe(self) -> str:
        return f"{self.part} of {len(self.branches)} branches added up, kernel {size_words(self.kernel)}"


def _gain(gamma: Sequence[Tensor], var: Tensor, eps: float) -> Tensor:
    """Return what the norm multiplies each channel by."""
    scale = (var + eps).rsqrt()
    return gamma[0] * scale if gamma else scale


def _shift(bias: Sequence[Tensor], norm: Sequence[Tensor], eps: float) -> Tensor:
    """Return what is added to each channel; `norm` is (gamma, beta, mean, variance) or (mean, variance)."""
    *affine, mean, var = norm
    centred = bias[0] - mean if bias else -mean
    shifted = centred * _gain(affine[:1], var, eps)
    return shifted + affine[1] if affine else shifted
