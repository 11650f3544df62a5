"""Parameter groups by what was loaded: rates for fresh, adapted and loaded parameters, decay by depth and by kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

from torchgraft.core.errors import UsageError
from torchgraft.core.types import Module
from torchgraft.tuning.fates import Fate, Loads, ModelTensor, TensorFates, tensor_fates
from torchgraft.tuning.masks import held_rows

_KIND_OF_FATE = {
    Fate.LOADED: "loaded", Fate.ADAPTED: "adapted", Fate.PARTLY: "adapted", Fate.CONSTANT: "fresh",
    Fate.FRESH: "fresh",
}  # fmt: skip
HELD = "fresh part"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    lr: float
    fresh_lr: float | None
    adapted_lr: float | None
    layer_decay: float | None
    weight_decay: float

    def of(self, kind: str, below: int) -> float:
        """Return the rate of a parameter `below` steps under the top."""
        if kind in ("fresh", HELD):
            return self.lr if self.fresh_lr is None else self.fresh_lr
        base = self.adapted_lr if kind == "adapted" and self.adapted_lr is not None else self.lr
        return base if self.layer_decay is None else base * self.layer_decay**below


def param_groups(  # noqa: PLR0913  # one per choice, all by keyword
    model: Module,
    report: Loads,
    *,
    lr: float,
    fresh_lr: float | None = None,
    adapted_lr: float | None = None,
    layer_decay: float | None = None,
    weight_decay: float = 0.0,
    no_decay_norm_bias: bool = True,
) -> list[dict[str, Any]]:
    """Return groups for an optimizer: every trainable parameter exactly once, tied ones too, frozen ones not at all.

    Each group has `params`, `names`, `name`, `lr` and `weight_decay`. Parameters are *loaded* (in full), *adapted*
    (resized, or filled in part) or *fresh* (the rest, and those that the report doesn't know). Where freeze() holds the
    loaded part of a parameter, it is the *fresh part* that learns: at the rate of fresh ones, and without decay, which
    would shrink the held part.

    Args:
        model: the model that was loaded.
        report: what load() returned, or a plan; after several loads a list of theirs, in that order.
        lr: the rate of loaded parameters, and of all others without a rate of their own.
        fresh_lr: the rate of fresh parameters; layer decay doesn't touch it.
        adapted_lr: the rate of adapted parameters.
        layer_decay: factor per step of depth below the top, for loaded and adapted parameters (depth: see
            torchgraft.tuning.groups.depths; as in BEiT, Bao et al., 2021).
        weight_decay: for matrices and kernels.
        no_decay_norm_bias: whether norms, biases, other parameters of one axis or none, and what `no_weight_decay()`
            of the model, or of a part of it, names go without weight decay.

    Raises:
        UsageError: a rate makes no sense, nothing is trainable, or the report is for another model.
    """
    rates = _Rates(
        lr=lr,
        fresh_lr=fresh_lr,
        adapted_lr=adapted_lr,
        layer_decay=layer_decay,
        weight_decay=weight_decay,
    )
    _require_sound_rates(rates)
    found = tensor_fates(model, report)
    depth_of = depths([tensor.name for tensor in found.parameters])
    top = max(depth_of, default=0)
    trained = [(t, top - at) for t, at in zip(found.parameters, depth_of, strict=True) if t.tensor.requires_grad]
    if not trained:
        raise UsageError(f"nothing to train: all {len(found.parameters)} parameters of the model are frozen")
    return _grouped(trained, rates, _without_decay(found) if no_decay_norm_bias else set())


def _require_sound_rates(rates: _Rates) -> None:
    for name in ("lr", "fresh_lr", "adapted_lr", "weight_decay"):
        value = getattr(rates, name)
        if value is not None and not _finite_number(value) >= 0:
            raise UsageError(f"{name}={value!r}: use a finite number, zero or more")
    decay = rates.layer_decay
    if decay is not None and not 0 < _finite_number(decay) <= 1:
        raise UsageError(f"layer_decay={decay!r}: use a factor above 0 and up to 1, e.g. 0.75")


def _finite_number(value: object) -> float:
    """Return a finite number; NaN for all else."""
    is_number = hasattr(value, "__float__") and not isinstance(value, bool)  # tensors, too
    found = float(value) if is_number else nan  # type: ignore[arg-type]  # what has __float__
    return found if isfinite(found) else nan


def _without_decay(found: TensorFates) -> set[int]:
    """Return the keys of parameters without weight decay."""
    named = {
        f"{path}.{name}".lstrip(".")
        for path, module in found.modules.items()
        if callable(own := getattr(module, "no_weight_decay", None))
        for name in own()
    }
    without_decay = set()
    for tensor in found.parameters:
        alone = tensor.tensor.ndim <= 1
        if alone or any(p.attr == "bias" or p.name in named or _is_norm(p.module) for p in tensor.places):
            without_decay.add(tensor.key)
    return without_decay


def _is_norm(module: Module) -> bool:
    return "norm" in type(module).__name__.lower() and not any(True for _ in module.children())


def _grouped(trained: list[tuple[ModelTensor, int]], rates: _Rates, without_decay: set[int]) -> list[dict[str, Any]]:
    """Return the groups of (parameter, steps below the top)."""
    groups: dict[str, dict[str, Any]] = {}
    for tensor, below in trained:
        kind = HELD if held_rows(tensor.tensor) else _KIND_OF_FATE[tensor.fate]
        decay = 0.0 if tensor.key in without_decay or kind == HELD else rates.weight_decay
        parts = [kind]
        if rates.layer_decay is not None and kind not in ("fresh", HELD):
            parts.append(f"{below} below the top")
        if rates.weight_decay and not decay:
            parts.append("no decay")
        name = ", ".join(parts)
        rate = rates.of(kind, below)
        group = groups.setdefault(name, {"name": name, "params": [], "names": [], "lr": rate, "weight_decay": decay})
        group["params"].append(tensor.tensor)
        group["names"].append(tensor.name)
    return list(groups.values())


def depths(names: Sequence[str]) -> tuple[int, ...]:
    """Return the depth of each name in the model, the last unit the deepest; `names` are in registration order.

    Parameters belong to *units*: a name's path up to its first number (`encoder.layer.3` for
    `encoder.layer.3.output.dense.weight`), which count upwards as the model registers them. Everything without a number
    before the first unit stands at depth 0 together (embeddings, stem), and everything without one after a unit (final
    norm, head) one above it, together.
    """
    units: dict[str, int] = {}
    out: list[int] = []
    top = 0
    unnumbered = True
    for name in names:
        unit = _numbered_unit(name)
        if unit is None:
            if not unnumbered:
                top, unnumbered = top + 1, True
            out.append(top)
            continue
        if unit not in units:
            top, unnumbered = top + 1, False
            units[unit] = top
        out.append(units[unit])
    return tuple(out)


def _numbered_unit(name: str) -> str | None:
    """Return the path of `name` up to its first segment that is a number, None if there is none."""
    parts = name.split(".")
    at = next((n for n, part in enumerate(parts) if part.isdecimal()), None)
    return None if at is None else ".".join(parts[: at + 1])
