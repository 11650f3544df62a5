"""How one source tensor is made to fit one slot of another size, by what its axes mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torchgraft.adapting.fit import UNCHANGED, Fit, mismatch
from torchgraft.adapting.orientation import WEIGHTS, is_transposed
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf
from torchgraft.core.plan import Certainty, Op, Rows
from torchgraft.core.specs import Shape
from torchgraft.ops import AdaptInputChannels, CropKernel, InflateKernel, PadKernel, ResamplePatch, SelectRows

OVERLAP = ", though the stride of a transposed convolution says how many of them add up in its output"


def resized_fit(
    source: Leaf, target: Leaf, *, first_conv: bool, channels: str | None, kernel: str | None, groups: int = 1
) -> Fit:
    """Return how to change the size of a tensor by what its axes mean; a Fit without ops says why it stays fresh.

    `channels` and `kernel` are the caller's rules for other input channels (of a linear layer: features), and for kernels of
    another size. In a convolution of several `groups` each kernel has the channels of one group, which are no others' sum.
    """
    a, b = source.shape, target.shape
    adapted = None
    if a[1:2] != b[1:2] and a[0] == b[0] and (channels or (first_conv and groups == 1 and len(a) > 2)):
        made = _channels(a[1], b[1], channels or "repeat")
        adapted = made if channels else _unasked(made, a, b)
    if adapted and len(a) == len(b) and a[2:] == b[2:]:
        return adapted
    if gains_depth(a, b) and (adapted or a[1] == b[1]):
        before, deep = adapted or UNCHANGED, f"kernel inflated over {b[2]} steps of a new axis"
        made = replace(before, ops=(*(before.ops or ()), InflateKernel(b)), rule=Ground.INFLATED_KERNEL)
        text = f"{before.text}; {deep}" if adapted else deep
        doubt = Certainty.DOUBT if is_transposed(target) else made.certainty
        return replace(made, text=f"{text}{OVERLAP * is_transposed(target)}", certainty=doubt)
    if len(a) == len(b) > 2 and a[:2] == b[:2] and (kernel or target.role in WEIGHTS):
        return _kernel_size(a[2:], b[2:], kernel)
    grouped = f"; the layer has {groups} groups, which see other channels each" if groups > 1 else ""
    return Fit(None, mismatch(a, b) + grouped + _growing(a, b, target.kind))


def _growing(a: Shape, b: Shape, kind: str) -> str:
    """Return which argument fills a part of a table that has more rows, or of a layer that has more inputs; "" for others."""
    sides = {"Embedding": (0, "grow_rows=['NAME']"), "Linear": (1, "in_channels={'NAME': 'fresh'}")}
    axis, option = sides.get(kind, (0, ""))
    grows = option and len(a) == len(b) == 2 and a[axis] < b[axis] and a[1 - axis] == b[1 - axis]
    return f"; {option} keeps the first {a[axis]}, if they mean the same" if grows else ""


def gains_depth(a: Shape, b: Shape) -> bool:
    """Return whether a kernel of images has the outputs, height and width of one of volumes or clips."""
    return len(b) == len(a) + 1 and len(a) >= 4 and a[0] == b[0] and b[3:] == a[2:]


# How a kernel may get another size: new weights for patches of another size, or the same weights among zeros, or cut.
KERNEL_RULES = ("resample", "pad", "crop")


def _kernel_size(a: Shape, b: Shape, rule: str | None) -> Fit:
    """Return how a kernel gets another size, on request only: other patches may as well mean that it is the wrong file."""
    size = f"kernel {'x'.join(map(str, a))} in the file, {'x'.join(map(str, b))} in the model"
    if not rule:
        return Fit(None, f"{size}; kernels={{'NAME': 'resample'}} resizes it")
    ops: dict[str, Callable[[], Op]] = {
        "resample": lambda: ResamplePatch(target=b, source=a),
        "pad": lambda: PadKernel(source=a, target=b),
        "crop": lambda: CropKernel(source=a, target=b),
    }
    return Fit((ops[rule](),), size, rule=Ground.KERNEL_SIZE)


def _channels(old: int, size: int, rule: str) -> Fit:
    """Return how a kernel gets other input channels; rules that keep the old ones make only those behind them."""
    text, old_ones = f"input channels {old} -> {size}", tuple(range(min(old, size)))
    if rule == "fresh":
        keeps = f"{text}, the first {len(old_ones)} kept, new ones fresh"
        cut = () if old <= size else (SelectRows(1, old_ones),)
        return Fit(cut, keeps, rows=Rows(1, old_ones) if old < size else None, rule=Ground.INPUT_CHANNELS)
    keeps_old = rule in ("zero", "fill-mean") or (rule.startswith("copy:") and size > 1)
    made = Rows(1, tuple(range(old, size))) if keeps_old and old < size else None
    return Fit((AdaptInputChannels(size, rule),), text, rule=Ground.INPUT_CHANNELS, made=made)


def _unasked(fit: Fit, a: Shape, b: Shape) -> Fit:
    """Return how a kernel gets other input channels unasked: timm's rule for three of them, doubt for others.

    Where it has one, and as many as outputs in the model, it may as well be one for each channel alone.
    """
    old, size = a[1], b[1]
    if old == 1 and size == b[0]:
        said = "in_channels= says that it has not"
        text = f"{fit.text}, unless the file's layer has a kernel for each of {size} channels alone: {said}"
        return replace(fit, text=text, certainty=Certainty.DOUBT)
    if old < size or size == 1:
        return fit
    if old == len("RGB"):
        return replace(fit, text=f"{fit.text}, as timm does it", certainty=Certainty.LIKELY)
    text = f"{fit.text}, and which of the {old} the model's {size} are isn't known: in_channels= or axis_names= says it"
    return replace(fit, text=text, certainty=Certainty.DOUBT)
