"""Tensors of a model that hold something else than the source's did when it was recorded, by their fingerprints."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from torchgraft.core.places import here, places
from torchgraft.core.plan import Action, Plan
from torchgraft.core.results.recording import Fingerprint
from torchgraft.core.results.verification import Cause
from torchgraft.core.types import Module
from torchgraft.verifying.divergence import ROUNDING
from torchgraft.verifying.tracing import fingerprint


def recorded_causes(
    model: Module, plan: Plan, recorded: Mapping[str, Fingerprint], names: Container[str] | None = None
) -> Iterator[Cause]:
    """Yield the tensors, of these `names` (None: all), that were copied unchanged and differ from what was recorded.

    Of a cast tensor that is what its type can't round away. A permutation of its values doesn't show in a fingerprint.
    """
    held = {place.name: place.tensor for place in places(model)}
    for step in plan.steps:
        name, key = step.slot.name, step.feeds[0].key if step.feeds else ""
        plain = step.action is Action.COPY and step.rows is None and name in held and key in recorded
        if not plain or (names is not None and not any(one in names for one in step.slot.names)):
            continue
        found = fingerprint(here(held[name]))
        rounding = ROUNDING.get(str(held[name].dtype).removeprefix("torch."), 0.0)
        if found is not None and found.distance(recorded[key]) > rounding:
            yield Cause(
                kind="value",
                text=f"{name} holds other values than {key} did in the recorded run; the plan says {key}",
                remedy="load again by the plan, or correct the plan with rename=",
                module=step.slot.owner,
                source_module=key.rpartition(".")[0],
                target=name,
                source=key,
            )
