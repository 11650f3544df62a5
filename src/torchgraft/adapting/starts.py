"""Added layers that change nothing at first, on request: the grown model starts at the old model's output.

"identity" passes on what comes in; "zero" puts out nothing, for the last layer before a shortcut; "zero-gamma" does the
same for the norms there (Goyal et al., 2017, arXiv:1706.02677) and leaves all else to the model and the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.grounds import Ground
from torchgraft.core.names import covers
from torchgraft.core.plan import Op, Step, Why
from torchgraft.core.specs import Slot
from torchgraft.ops import Constant, Identity

# Layers of one vector that multiply what comes in, or what comes in below zero: a one is their identity.
SCALES = ("norm", "scale", "prelu")
# Layers that are known to do with their weight what the name says, and no more (weight standardisation would).
PLAIN = frozenset({
    "", "Linear", "NonDynamicallyQuantizableLinear", "Conv1d", "Conv2d", "Conv3d", "Conv1D",
    "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d",
})  # fmt: skip
WORDS = {"identity": "as the identity", "zero": "at zero", "zero-gamma": "as a norm that puts out zero"}


def init_steps(slots: Sequence[Slot], init: Mapping[str, str]) -> dict[str, Step]:
    """Return a step for each slot that the patterns give a start; of two patterns the first decides.

    Raises:
        UsageError: a layer can't start so, or none that a pattern covers.
    """
    steps: dict[str, Step] = {}
    for pattern, kind in init.items():
        meant = [slot for slot in slots if any(covers(pattern, name) for name in slot.names)]
        made = {slot.name: (slot, op) for slot in meant if (op := STARTS[kind](slot)) is not None}
        if not made:
            raise UsageError(f"init={{{pattern!r}: {kind!r}}}: there is nothing that can start so in it")
        steps = {name: Step(slot=slot, ops=(op,), why=_why(slot, kind)) for name, (slot, op) in made.items()} | steps
    return steps


def _why(slot: Slot, kind: str) -> Why:
    """Return the ground of a start, which warns of norms: except batch norms none is the identity, whatever its weights are."""
    normalises = kind == "identity" and "norm" in slot.kind.lower() and "batchnorm" not in slot.kind.lower()
    said = "at ones and zeros, as you said, and still normalises" if normalises else f"{WORDS[kind]}, as you said"
    return Why(Ground.USER_RULE, f"starts {said}")


def _zero(slot: Slot) -> Op | None:
    return _statistic(slot) if slot.is_buffer else _filled(slot, 0.0)


def _zero_gamma(slot: Slot) -> Op | None:
    if "norm" not in slot.kind.lower() and slot.kind:
        return None
    if slot.is_buffer:
        return _statistic(slot)
    if len(slot.spec.shape) != 1 or slot.role not in ("weight", "bias"):
        return None
    return _filled(slot, 0.0)


def _identity(slot: Slot) -> Op | None:
    shape, kind = slot.spec.shape, slot.kind.lower()
    if slot.is_buffer:
        return _statistic(slot)
    if slot.role == "bias":
        return _filled(slot, 0.0)
    if len(shape) <= 1 and (any(word in kind for word in SCALES) or (not kind and slot.role == "weight")):
        return _filled(slot, 1.0)
    if slot.role != "weight" or slot.kind not in PLAIN or len(shape) < 2:
        raise _unable(
            slot, "only weights of torch's linear layers, convolutions, norms and scales are known to have one"
        )
    if shape[0] != shape[1] * slot.groups:
        raise _unable(slot, "it has not as many outputs as inputs")
    if any(size % 2 == 0 for size in shape[2:]) or (slot.setting and not slot.setting.keeps_size):
        raise _unable(slot, "it needs an odd kernel, stride 1, and padding that keeps the size")
    return Identity(shape, slot.spec.dtype.label, slot.groups)


def _statistic(slot: Slot) -> Op | None:
    """Return the start of a norm's statistics, under which it leaves its input as it is: (x - 0) / sqrt(var + eps)."""
    if slot.role == "running_var":
        eps = (slot.setting.eps if slot.setting else None) or 0.0
        return _filled(slot, 1.0 - eps)
    return _filled(slot, 0.0) if slot.role in ("running_mean", "num_batches_tracked") else None


def _filled(slot: Slot, value: float) -> Op:
    return Constant(slot.spec.shape, slot.spec.dtype.label, value)


def _unable(slot: Slot, why: str) -> UsageError:
    kind = f" of {slot.kind}" if slot.kind else ""
    return UsageError(
        f"init: {printable(slot.name)} {list(slot.spec.shape)}{kind} can't start as the identity: {why}; before a "
        "shortcut, 'zero' in the last layer does what you want"
    )


STARTS: Mapping[str, Callable[[Slot], Op | None]] = {"identity": _identity, "zero": _zero, "zero-gamma": _zero_gamma}
