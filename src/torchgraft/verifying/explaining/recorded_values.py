"""Tensors of a model that hold something else than the source's did when it was recorded, by their fingerprints."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from torchgraft.core.places import here, places
from torchgraft.core.plan import Action, Plan
from torchgraft.core.results.recording import Fingerprint
from torchgraft.core.results.verification import Cause
from torchgraft.core.types import Module, Tensor
from torchgraft.verifying.divergence import ROUNDING
from torchgraft.verifying.tracing import ordered_fingerprint

_AGAIN = "load again by the plan, or correct the plan with rename="


def recorded_causes(
    model: Module, plan: Plan, recorded: Mapping[str, Fingerprint], names: Container[str] | None = None
) -> Iterator[Cause]:
    """Yield the tensors, of these `names` (None: all), that were copied unchanged and differ from what was recorded.

    Of a cast tensor that is what its type can't round away.
    """
    held = {place.name: place.tensor for place in places(model)}
    for step in plan.steps:
        name, key = step.slot.name, step.feeds[0].key if step.feeds else ""
        plain = step.action is Action.COPY and step.rows is None and name in held and key in recorded
        if not plain or (names is not None and not any(one in names for one in step.slot.names)):
            continue
        said = _difference(here(held[name]), recorded[key])
        if said:
            what, remedy = said
            yield Cause(
                kind="value",
                text=f"{name} holds {what.format(key)} in the recorded run; the plan fills it from {key}",
                remedy=remedy.format(name=name),
                module=step.slot.owner,
                source_module=key.rpartition(".")[0],
                target=name,
                source=key,
            )


def _difference(tensor: Tensor, recorded: Fingerprint) -> tuple[str, str] | None:
    """Return what a tensor holds that isn't what was recorded, and what to do about it."""
    found = ordered_fingerprint(tensor)
    if found is None:
        return None
    rounding = ROUNDING.get(str(tensor.dtype).removeprefix("torch."), 0.0)
    if found.distance(recorded) > rounding:
        return "other values than {} did", _AGAIN
    if not found.is_in_another_order(recorded, rounding):
        return None
    turned = ordered_fingerprint(tensor.t()) if tensor.dim() == 2 else None
    if turned and not turned.is_in_another_order(recorded, rounding):
        return "the transpose of {}", "load with permute={{'{name}': [1, 0]}}"
    return "the values of {} in another order than it did", _AGAIN
