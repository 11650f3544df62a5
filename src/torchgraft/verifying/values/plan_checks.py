"""What only values show about a plan, before anything is written: ties that conflict, duplicates, odd buffers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torchgraft.core.errors import UnsupportedCheckpointError
from torchgraft.core.formatting import listed
from torchgraft.core.names import FREQUENCIES
from torchgraft.core.plan import Objection, Plan, Unused, Why
from torchgraft.core.specs import Source
from torchgraft.core.types import Tensor
from torchgraft.verifying.values.repeats import equal_values, find_duplicates

# Vectors of power iteration (torch's spectral norm, both ways of writing it): of length 1 by construction.
POWER_ITERATION = ("weight_u", "weight_v", "_u", "_v")
# Half-precision files round frequencies and lengths by less than this.
NEAR = 0.01


def check_values(plan: Plan, source: Source, model: object = None) -> Plan:
    """Return the plan with objections to what only values show, and unused tensors marked that repeat a used one.

    Of a source without values (a state dict on the meta device) nothing is known: plans are made of names and shapes alone.
    """
    try:
        objections = (
            *_conflicting_ties(plan, source),
            *_averaged_unit_vectors(plan, source),
            *_other_rotary_frequencies(plan, source, model),
        )
        new = [objection for objection in objections if objection not in plan.objections]
        return replace(plan, objections=(*plan.objections, *new), unused=_with_duplicates_marked(plan, source))
    except UnsupportedCheckpointError:
        return plan


def _conflicting_ties(plan: Plan, source: Source) -> Iterator[Objection]:
    """Yield an objection for each tied slot that two source tensors of different values claim."""
    network = next(n for n in source.networks if n.path == plan.network)
    shared = network.shared or {}
    for unused in plan.unused:
        if unused.why.rule != "alias":
            continue
        key, used = unused.spec.name, unused.same_as
        if shared.get(key, key) != shared.get(used, used) and not equal_values(source, plan.network, key, used):
            text = f"{key} and {used} are one tensor in the model (tied) and hold different values in the file"
            yield Objection("conflict", f"{text}; remove one of them from the file, or untie the model", (key, used))


def _with_duplicates_marked(plan: Plan, source: Source) -> tuple[Unused, ...]:
    """Return the unused tensors; those that repeat a used one, value for value, are nothing to worry about."""
    unused = [u.spec for u in plan.unused if not u.quiet and u.why.rule == "no counterpart"]
    if not unused:
        return plan.unused
    used = {feed.key: plan.source_specs[feed.key] for step in plan.steps for feed in step.feeds}
    duplicates = find_duplicates(source, plan.network, unused, used.values())
    return tuple([_repeating(one, duplicates.get(one.spec.name)) for one in plan.unused])


def _repeating(unused: Unused, used: str | None) -> Unused:
    if used is None:
        return unused
    return replace(unused, quiet=True, why=Why("echo", f"holds the same values as {used}"), same_as=used)


def _averaged_unit_vectors(plan: Plan, source: Source) -> Iterator[Objection]:
    """Yield an objection to vectors of power iteration that are shorter than 1, as averages of unit vectors are.

    sigma = u W v computed with such a vector is too small.
    """
    keys = {f.key: f.network for step in plan.steps for f in step.feeds if f.key.rpartition(".")[2] in POWER_ITERATION}
    averaged = [key for key, network in keys.items() if not _is_unit_vector(source.read(network, key))]
    if averaged:
        yield Objection(
            "buffers",
            f"{listed(averaged)}: vectors of a spectral norm whose length isn't 1, as if several models were averaged; the "
            "norm that they give is wrong: take them from the model that was trained, or run it in training mode for some "
            "steps",
            tuple(averaged),
        )


def _is_unit_vector(vector: Tensor) -> bool:
    """Whether a vector has length 1; what is no vector of real numbers counts as one."""
    return vector.ndim != 1 or not vector.is_floating_point() or abs(float(vector.double().norm()) - 1) <= NEAR


def _other_rotary_frequencies(plan: Plan, source: Source, model: object) -> Iterator[Objection]:
    """Frequencies follow from base and scaling: weights trained with some make another function with others."""
    keys = [key for key in plan.source_specs if key.rpartition(".")[2] in FREQUENCIES]
    held = _rotary_buffers(model) if keys else {}
    for key in keys:
        stored = source.read(plan.network, key)
        same = [(name, value) for name, value in held.items() if value.shape == stored.shape]
        if same and not any(_near(stored, value) for _, value in same):
            name, value = same[0]
            yield Objection(
                "buffers",
                f"{key} of the file has other frequencies than {name} of the model (the lowest is {_lowest(stored)} in the "
                f"file, {_lowest(value)} in the model): the rotary embeddings have another base or scaling; build the model "
                "with that of the file, unless you mean to change it",
                (key, name),
            )
            return


def _rotary_buffers(model: Any) -> dict[str, Tensor]:
    """Return the rotary frequencies of a model that has values, by name; also those that no file holds."""
    if not hasattr(model, "named_buffers"):
        return {}
    found = {name: buffer for name, buffer in model.named_buffers() if name.rpartition(".")[2] in FREQUENCIES}
    return {name: buffer for name, buffer in found.items() if not buffer.is_meta}


def _near(stored: Tensor, value: Tensor) -> bool:
    import torch

    return torch.allclose(stored.double(), value.detach().cpu().double(), rtol=NEAR, atol=0)


def _lowest(frequencies: Tensor) -> str:
    return f"{float(frequencies.min()):.3g}"
