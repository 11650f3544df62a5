"""What only values show about a plan, before anything is written: ties that conflict, duplicates, odd buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torchgraft.core.errors import UnsupportedCheckpointError
from torchgraft.core.formatting import listed
from torchgraft.core.grounds import Ground
from torchgraft.core.names import FREQUENCIES
from torchgraft.core.objections import Objection
from torchgraft.core.plan import Plan, Step, Unused, Why
from torchgraft.core.specs import Network, Source
from torchgraft.core.types import Tensor
from torchgraft.verifying.values.repeats import equal_values, find_duplicates

# Vectors of power iteration (torch's spectral norm, both ways of writing it): of length 1 by construction.
POWER_ITERATION = ("weight_u", "weight_v", "_u", "_v")
POSITIONS = "position_ids"
# Half-precision files round frequencies and lengths by less than this.
NEAR = 0.01


def check_values(plan: Plan, source: Source, model: object = None) -> Plan:
    """Return the plan with objections to what only values show, and unused tensors marked that repeat a used one.

    Of a source without values (a state dict on the meta device) nothing is known: plans are made of names and shapes alone.
    """
    try:
        plan = _with_unit_vectors(plan, source)
        objections = (
            *_conflicting_ties(plan, source),
            *_averaged_unit_vectors(plan, source),
            *_other_rotary_frequencies(plan, source, model),
        )
        new = [objection for objection in objections if objection not in plan.objections]
        return replace(
            plan,
            objections=(*plan.objections, *new),
            unused=_with_positions_told(_with_duplicates_marked(plan, source), source),
        )
    except UnsupportedCheckpointError:
        return plan


def _conflicting_ties(plan: Plan, source: Source) -> Iterator[Objection]:
    """Yield an objection for each tied slot that two source tensors of different values claim."""
    network = next(n for n in source.networks if n.path == plan.network)
    shared = network.shared or {}
    for unused in plan.unused:
        if unused.why.rule != Ground.ALIAS:
            continue
        key, used = unused.spec.name, unused.same_as
        if shared.get(key, key) != shared.get(used, used) and not equal_values(source, plan.network, key, used):
            text = f"{key} and {used} are one tensor in the model (tied) and hold different values in the file"
            yield Objection("conflict", text, (key, used), "remove one of them from the file, or untie the model")


def _with_duplicates_marked(plan: Plan, source: Source) -> tuple[Unused, ...]:
    """Return the unused tensors; those that repeat a used one, value for value, are nothing to worry about."""
    unused = [u.spec for u in plan.unused if not u.quiet and u.why.rule == Ground.NO_COUNTERPART]
    if not unused:
        return plan.unused
    used = {feed.key: plan.source_specs[feed.key] for step in plan.steps for feed in step.feeds}
    duplicates = find_duplicates(source, plan.network, unused, used.values())
    return tuple([_repeating(one, duplicates.get(one.spec.name)) for one in plan.unused])


def _repeating(unused: Unused, used: str | None) -> Unused:
    if used is None:
        return unused
    return replace(unused, quiet=True, why=Why(Ground.ECHO, f"holds the same values as {used}"), same_as=used)


def _with_positions_told(unused: tuple[Unused, ...], source: Source) -> tuple[Unused, ...]:
    """Return unused tensors; tables of positions that don't count 0, 1, 2 … are no matter of course."""
    return tuple(
        [replace(one, quiet=False, why=_OTHER_COUNT) if _counts_otherwise(one, source) else one for one in unused]
    )


_OTHER_COUNT = Why(
    Ground.NO_COUNTERPART, "it doesn't count 0, 1, 2 and so on: the file's model numbers positions in its own way"
)


def _counts_otherwise(unused: Unused, source: Source) -> bool:
    import torch

    spec = unused.spec
    if spec.name.rpartition(".")[2] != POSITIONS or not unused.quiet or unused.why.rule != Ground.NO_COUNTERPART:
        return False
    held = source.read(unused.network, spec.name)
    return bool(spec.numel) and not torch.equal(held.flatten().long(), torch.arange(spec.numel, device="cpu"))


def _with_unit_vectors(plan: Plan, source: Source) -> Plan:
    """Return the plan with vectors of power iteration that were averaged replaced by those of the live weights in the file.

    Averaged unit vectors are none, and fit no weight; those of the model that was trained fit its average nearly.
    """
    live = [n for n in source.networks if n.role == "model" and n.path != plan.network]
    if not any(n.path == plan.network and n.role == "ema" for n in source.networks) or not live:
        return plan
    vectors = {s.feeds[0].key for s in plan.steps if len(s.feeds) == 1} & {
        key for key in plan.source_specs if key.rpartition(".")[2] in POWER_ITERATION
    }
    taken = {key: path for key in vectors if (path := _live_vector(key, plan, source, live)) is not None}
    if not taken:
        return plan
    steps = [_fed_from(step, taken) for step in plan.steps]
    note = f"vectors of a spectral norm come from network {min(taken.values())!r}, as averaged ones have another length"
    left = [
        Unused(spec=plan.source_specs[key], network=plan.network, why=_AVERAGED, quiet=True) for key in sorted(taken)
    ]
    notes = (*plan.notes, f"{listed(sorted(taken))}: {note}")
    return replace(plan, steps=tuple(steps), unused=(*plan.unused, *left), notes=notes)


_AVERAGED = Why(Ground.DERIVED, "an average of vectors of length 1, which has another length")


def _fed_from(step: Step, networks: Mapping[str, str]) -> Step:
    """Return the step with what it takes from another network of the file."""
    if len(step.feeds) != 1 or step.feeds[0].key not in networks:
        return step
    network = networks[step.feeds[0].key]
    why = replace(step.why, text=f"{step.why.text}; of network {network!r}, as an average of such vectors is none")
    return replace(step, feeds=(replace(step.feeds[0], network=network),), why=why)


def _live_vector(key: str, plan: Plan, source: Source, live: Sequence[Network]) -> str | None:
    """Return which network of the file has a vector of length 1 in place of one that was averaged."""
    if _is_unit_vector(source.read(plan.network, key)):
        return None
    spec = plan.source_specs[key]
    same = (n.path for n in live if (other := n.specs.get(key)) is not None and other.shape == spec.shape)
    return next((path for path in same if _is_unit_vector(source.read(path, key))), None)


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
            "norm that they give is wrong",
            tuple(averaged),
            "take them from the model that was trained, or run it in training mode for some steps",
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
                f"file, {_lowest(value)} in the model): the rotary embeddings have another base or scaling",
                (key, name),
                "build the model with that of the file, unless you mean to change it",
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
