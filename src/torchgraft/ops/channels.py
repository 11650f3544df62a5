"""Ops that change how many channels or cells a convolution kernel has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Picked
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, replaced, widened, with_shape
from torchgraft.ops.exact import gather
from torchgraft.ops.resample import size_words

_RULES = {
    "repeat": "taken in turn and scaled to the same sum", "sum": "their sum shared out", "mean": "mean",
    "zero": "new ones zero", "fill-mean": "new ones the mean", "copy": "new ones as channel {k}",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AdaptInputChannels(BaseOp):
    """Gives a convolution kernel [out, in, ...] another number of input channels.

    Rules: "repeat" takes the source's channels in turn, scaled by source/target; to one channel it is their sum
    (timm's `adapt_input_conv`). "sum" makes every channel the sum of the source's, divided by the target's number:
    an input repeated over all channels gives what it gave before. "mean" makes every channel their mean. When
    channels are added, "zero" keeps the old and adds zeros, "fill-mean" adds their mean, "copy:1" copies of channel 1
    (with a target of one channel: that channel alone). Computes in float32.
    """

    target: int
    rule: str

    name = "adapt_input_channels"
    rounds = True

    def __post_init__(self) -> None:
        kind, _, k = self.rule.partition(":")
        self.expect_choice("rule", kind, _RULES)
        if k.isdecimal() != (kind == "copy") or (k and kind != "copy"):
            raise UsageError(f"{self.name}: rule {self.rule!r} is none; a rule to copy channel 1 is 'copy:1'")
        self.expect_sizes("target", (self.target,))

    @property
    def picks(self) -> tuple[Picked, ...]:
        kind, _, k = self.rule.partition(":")
        return (Picked(1, (int(k),)),) if kind == "copy" and self.target == 1 else ()

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        shape = self.only(specs).shape
        source = shape[1] if len(shape) > 1 else 0
        self.expect(specs, "it takes a kernel [out, in, ...]", that=source > 0)
        self.expect_float(specs)
        kind, _, k = self.rule.partition(":")
        grows = kind in ("repeat", "sum", "mean") or self.target >= source or (kind == "copy" and self.target == 1)
        need = f"rule {self.rule!r} doesn't lead to {self.target} channels"
        self.expect(specs, need, that=grows and int(k or 0) < source)
        return with_shape(specs[0], replaced(shape, 1, self.target))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        kernel = widened(values)[0]
        kind, _, k = self.rule.partition(":")
        adapted = _copied(kernel, self.target, int(k)) if kind == "copy" else _HOW[kind](kernel, self.target)
        return adapted.to(values[0].dtype)

    def describe(self) -> str:
        kind, _, k = self.rule.partition(":")
        if self.target == 1 and kind in ("repeat", "sum"):
            words = "summed"
        else:
            words = f"channel {k} alone" if self.target == 1 and k else _RULES[kind].format(k=k)
        return f"input channels -> {self.target}, {words}"


def _repeated(kernel: Tensor, target: int) -> Tensor:
    """Return the channels (dimension 1) in turn, scaled by source/target; the sum when one is wanted."""
    source = kernel.shape[1]
    if target == source:
        return kernel
    if target == 1:
        return kernel.sum(1, keepdim=True)
    return gather(kernel, 1, [i % source for i in range(target)]).mul_(source / target)


def _averaged(kernel: Tensor, target: int) -> Tensor:
    """Return the mean of the channels, `target` times."""
    return kernel.mean(1, keepdim=True).repeat_interleave(target, 1)


def _summed(kernel: Tensor, target: int) -> Tensor:
    """Return the sum of the channels shared out over `target` of them."""
    return kernel.sum(1, keepdim=True).div_(target).repeat_interleave(target, 1)


def _zero_filled(kernel: Tensor, target: int) -> Tensor:
    """Return the channels and zeros."""
    import torch

    more = target - kernel.shape[1]
    return torch.cat([kernel, kernel.new_zeros(replaced(tuple(kernel.shape), 1, more))], 1)


def _mean_filled(kernel: Tensor, target: int) -> Tensor:
    """Return the channels and their mean as often as one is missing."""
    import torch

    return torch.cat([kernel, _averaged(kernel, target - kernel.shape[1])], 1)


def _copied(kernel: Tensor, target: int, k: int) -> Tensor:
    """Return the channels and copies of channel `k`; channel `k` alone when one is wanted."""
    source = kernel.shape[1]
    return gather(kernel, 1, [k] if target == 1 else [*range(source), *[k] * (target - source)])


_HOW: dict[str, Callable[[Tensor, int], Tensor]] = {
    "repeat": _repeated, "mean": _averaged, "sum": _summed, "zero": _zero_filled, "fill-mean": _mean_filled,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class InflateKernel(BaseOp):
    """Gives a kernel [out, in, height, width] a depth: [out, in, depth, height, width].

    It is repeated over the depth and divided by it, so that a still video gives what the image gave (I3D, Carreira and
    Zisserman 2017, arXiv:1705.07750). Computes in float32.
    """

    target: tuple[int, ...]

    name = "inflate_kernel"
    rounds = True

    def __post_init__(self) -> None:
        if len(self.target) < 4 or min(self.target) < 1:
            raise UsageError(f"{self.name}: {list(self.target)} is no kernel with a depth")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 1)
        flat = (*self.target[:2], *self.target[3:])
        self.expect(specs, f"it takes a kernel {list(flat)}", that=specs[0].shape == flat)
        self.expect_float(specs)
        return with_shape(specs[0], self.target)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        kernel, depth = values[0], self.target[2]
        return (widened([kernel])[0] / depth).to(kernel.dtype).unsqueeze(2).repeat_interleave(depth, 2)

    def describe(self) -> str:
        return f"kernel {size_words(self.target[3:])} -> {size_words(self.target[2:])} shared over the depth"


@dataclass(frozen=True, slots=True, kw_only=True)
class PadKernel(BaseOp):
    """Puts a kernel into the middle of a larger one of zeros: 1x1 into 3x3, the same function with more padding."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    name = "pad_kernel"
    lossless = True

    def __post_init__(self) -> None:
        _expect_nested(self.name, self.source, self.target)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        return _resized_kernel(self, specs, self.source, self.target)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        out = values[0].new_zeros((*values[0].shape[:2], *self.target))
        out[middle(self.source, self.target)] = values[0]
        return out

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        return (CropKernel(source=self.target, target=self.source),)

    def describe(self) -> str:
        return f"kernel {size_words(self.source)} -> {size_words(self.target)} padded with zeros"


@dataclass(frozen=True, slots=True, kw_only=True)
class CropKernel(BaseOp):
    """Takes the middle of a kernel: 3x3 out of 5x5."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    name = "crop_kernel"

    def __post_init__(self) -> None:
        _expect_nested(self.name, self.target, self.source)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        return _resized_kernel(self, specs, self.source, self.target)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        return values[0][middle(self.target, self.source)]

    @property
    def picks(self) -> tuple[Picked, ...]:
        kept = middle(self.target, self.source)[2:]
        return tuple(Picked(2 + at, range(one.start, one.stop)) for at, one in enumerate(kept))

    def describe(self) -> str:
        return f"kernel {size_words(self.source)} -> {size_words(self.target)}, the middle"


def _expect_nested(op: str, small: tuple[int, ...], large: tuple[int, ...]) -> None:
    """Raise UsageError unless `small` has a middle place in `large`."""
    nested = len(small) == len(large) > 0 and all(
        1 <= a <= b and (b - a) % 2 == 0 for a, b in zip(small, large, strict=True)
    )
    if not nested:
        raise UsageError(f"{op}: a kernel {list(small)} has no middle place in one of {list(large)}")


def _resized_kernel(op: BaseOp, specs: Sequence[TensorSpec], source: Shape, target: Shape) -> TensorSpec:
    """Return the spec of a kernel [out, in, *target] made from one [out, in, *source] (UsageError otherwise)."""
    shape = op.only(specs).shape
    fits = len(shape) == 2 + len(source) and shape[2:] == source
    op.expect(specs, f"it takes a kernel of size {size_words(source)}", that=fits)
    return with_shape(specs[0], (*shape[:2], *target))


def middle(small: tuple[int, ...], large: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the index of `small` in the middle of kernels of size `large`."""
    whole = slice(None)
    starts = [(b - a) // 2 for a, b in zip(small, large, strict=True)]
    return (whole, whole, *(slice(s, s + a) for s, a in zip(starts, small, strict=True)))
