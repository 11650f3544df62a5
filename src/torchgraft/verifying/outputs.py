"""Outputs of two models side by side: which belongs to which, and how far they are apart."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from torchgraft.core.errors import UsageError
from torchgraft.core.formatting import runs_words
from torchgraft.core.results.verification import OutputComparison
from torchgraft.core.types import Tensor
from torchgraft.core.values import agreeing

# The greatest relative difference that passes, by element type: about a hundred times what rounding alone does to
# networks of a hundred layers.
TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
# From this magnitude on an entry that both sides hold bit for bit is taken for a fill, such as -1e9 where a mask is.
FILL = 5000.0
# A part of an output is looked at by itself from so many entries on: fewer may all be near zero by chance.
FEWEST = 4


def coarsest_dtype(*sides: Mapping[str, Tensor]) -> str:
    """Return the coarsest floating-point type of the outputs."""
    kinds = {str(t.dtype).removeprefix("torch.") for side in sides for t in side.values()}
    return max((k for k in kinds if k in TOLERANCES), key=lambda k: TOLERANCES[k], default="float32")


def pair_outputs(
    source: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return pairs of output names (source's, target's), and notes on outputs that were left out.

    Outputs of one name belong together; else, with equally many, the order decides; else shapes do where they can. Pairs
    that hold nothing on both sides, NaN or zeros alone, would be equal whatever the models are: they are left out.

    Raises:
        UsageError: nothing can be compared.
    """
    pairs = _corresponding(source, target)
    if not pairs:
        raise UsageError(
            f"the outputs can't be compared: the model gives {_shapes(target)}, the source {_shapes(source)}; give "
            "callables as inputs= and source_inputs= that run each model and return what belongs together"
        )
    informative = [
        (s, t)
        for s, t in pairs
        if is_informative(source[s]) or is_informative(target[t]) or max_difference(source[s], target[t])[0]
    ]
    if not informative:
        names = _shapes({name: target[name] for _, name in pairs})
        raise UsageError(
            f"the outputs prove nothing: {names} hold no number but zero, NaN or infinity on both sides, as those of any two "
            "models might; give other inputs"
        )
    uninformative = [t for s, t in pairs if (s, t) not in informative]
    unpaired = [f"the source's {name}" for name in source if name not in {s for s, _ in pairs}]
    unpaired += [f"the model's {name}" for name in target if name not in {t for _, t in pairs}]
    notes = [f"outputs without a counterpart, not compared: {', '.join(unpaired)}"] if unpaired else []
    if uninformative:
        notes.append(f"outputs of zeros, NaN or nothing on both sides, not compared: {', '.join(uninformative)}")
    return tuple(informative), tuple(notes)


def is_informative(output: Tensor) -> bool:
    """Return whether an output holds a finite number other than zero; integers and booleans always do."""
    if not (output.is_floating_point() or output.is_complex()):
        return bool(output.numel())
    return bool((output.isfinite() & (output != 0)).any())


def _shapes(outputs: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in outputs.items()) or "no tensors"


def _corresponding(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    both = [name for name in target if name in source]
    if both:
        return [(name, name) for name in both]
    if len(source) == len(target):
        return list(zip(source, target, strict=True))
    return _by_shape(source, target)


def _by_shape(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    free = dict(source)
    pairs = []
    for name, tensor in target.items():
        same = next((other for other, t in free.items() if t.shape == tensor.shape), None)
        if same is not None:
            pairs.append((same, name))
            del free[same]
    return pairs


def compare_output(pair: tuple[str, str], source: Tensor, target: Tensor, tolerance: float) -> OutputComparison:
    """Return how far one output of the target is from that of the source."""
    greatest, relative = max_difference(source, target)
    return OutputComparison(
        source=pair[0],
        target=pair[1],
        source_shape=tuple(source.shape),
        target_shape=tuple(target.shape),
        greatest=greatest,
        relative=relative,
        passed=relative <= tolerance,
    )


def max_difference(source: Tensor, target: Tensor) -> tuple[float, float]:
    """Return max |a - b| and that over max |b| (b: the source), in float64; equal infinities and NaNs count as equal.

    Fills (see `FILL`) don't count for max |b|: beside them any other entry would pass.
    Whole numbers aren't rounded: of two tensors of them the difference itself is the second figure, too, however large they
    are.
    """
    import torch

    if source.shape != target.shape:
        return inf, inf
    if not source.numel():
        return 0.0, 0.0
    a, b = (t.detach().to("cpu").to(torch.complex128 if t.is_complex() else torch.float64) for t in (target, source))
    difference = torch.where(agreeing(a, b), 0.0, (a - b).abs())
    if not bool(difference.isfinite().all()):
        return inf, inf
    finite = b[b.isfinite() & ((b.abs() < FILL) | (a != b))]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    greatest = float(difference.max())
    if not any(t.is_floating_point() or t.is_complex() for t in (source, target)):
        return greatest, greatest
    return greatest, greatest / size if size else (0.0 if greatest == 0 else inf)


def faint_difference(name: str, source: Tensor, target: Tensor, tolerance: float) -> str:
    """Return the part of an output that differs though the whole agrees: small scores beside large boxes, say; "" if none.

    A part is all that has one number along an axis. Much is the root of the tolerance, far above what rounding leaves.
    """
    import torch

    a, b = (t.detach().to("cpu") for t in (target, source))
    if a.dim() < 2 or not (a.is_floating_point() and b.is_floating_point()):
        return ""
    a, b = a.double(), b.double()
    difference = torch.where(agreeing(a, b), 0.0, (a - b).abs()).nan_to_num()
    size = torch.where(b.isfinite(), b.abs(), 0.0)
    for axis in reversed(range(a.dim())):
        if a.shape[axis] < 2 or a.numel() < FEWEST * a.shape[axis]:
            continue
        others = [one for one in range(a.dim()) if one != axis]
        ratio = (difference.amax(others) / size.amax(others)).nan_to_num(posinf=0.0)
        found = (ratio > tolerance**0.5).nonzero().flatten().tolist()
        if found:
            return (
                f"{name}: what has number {runs_words(found)} along axis {axis} differs by {float(ratio.max()):.2g} of its own "
                "size, and passes since the rest is much larger; give callables as inputs= that return it alone"
            )
    return ""
