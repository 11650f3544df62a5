"""What only values tell about a plan, before anything is written: ties that conflict, and tensors that repeat others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from torchgraft.core.derived import FREQUENCIES
from torchgraft.core.errors import UnsupportedCheckpointError
from torchgraft.core.listing import listed
from torchgraft.core.plan import Objection, Plan, Unused, Why
from torchgraft.core.specs import Piece, Source, TensorSpec
from torchgraft.core.types import Tensor


def with_values(made: Plan, source: Source, model: object = None) -> Plan:
    """Return the plan with what only values tell: tied tensors that differ, unused ones that repeat a used one, and
    buffers that contradict the model's.

    Of a source without values (a state dict on the meta device) there is nothing to tell: plans are made of what it says.
    """
    try:
        return _told(made, source, model)
    except UnsupportedCheckpointError:
        return made


def _told(made: Plan, source: Source, model: object) -> Plan:
    said = [o for o in (*_conflicts(made, source), *odd_buffers(made, source, model)) if o not in made.objections]
    return replace(made, objections=(*made.objections, *said), unused=_without_echoes(made, source))


def _conflicts(made: Plan, source: Source) -> tuple[Objection, ...]:
    """Return an objection for each tied slot that two source tensors of different values claim."""
    network = next(n for n in source.networks if n.path == made.network)
    out = []
    for unused in made.unused:
        if unused.why.rule != "alias":
            continue
        key = unused.spec.name
        fed = made.by_name[key].feeds[0].key
        shared = network.shared or {}
        if shared.get(key, key) != shared.get(fed, fed) and not same_values(source, made.network, key, fed):
            text = f"{key} and {fed} are one tensor in the model (tied) and hold different values in the file"
            out.append(
                Objection("conflict", f"{text}; remove one of them from the file, or untie the model", (key, fed))
            )
    return tuple(out)


def _without_echoes(made: Plan, source: Source) -> tuple[Unused, ...]:
    """Return the unused tensors; those that repeat a used one, value for value, are nothing to worry about."""
    spare = [u.spec for u in made.unused if not u.quiet and u.why.rule == "no counterpart"]
    if not spare:
        return made.unused
    used = {feed.key: made.source_specs[feed.key] for step in made.steps for feed in step.feeds}
    twins = echoes(source, made.network, spare, used.values())
    return tuple(
        replace(u, quiet=True, why=Why("echo", f"holds the same values as {twins[u.spec.name]}"))
        if u.spec.name in twins
        else u
        for u in made.unused
    )


SAMPLE = 64


def same_values(source: Source, network: str, first: str, second: str) -> bool:
    """Return whether two tensors of a network agree in shape, dtype and every value (NaN equals NaN)."""
    import torch

    a, b = source.read(network, first), source.read(network, second)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(torch.equal(a, b) or (a.is_floating_point() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)))


def echoes(source: Source, network: str, spare: Iterable[TensorSpec], used: Iterable[TensorSpec]) -> dict[str, str]:
    """Return spare tensor -> used tensor for spare ones that are equal, value for value, to a used one.

    A few bytes tell most pairs apart, so whole tensors are read only where those agree. Tensors that begin with one
    value over and over (a norm that was never trained) are no echoes: they resemble each other by chance.
    """
    feeds = list(used)
    wanted = {(spec.shape, spec.dtype) for spec in spare} & {(spec.shape, spec.dtype) for spec in feeds}
    both = [spec for spec in (*spare, *feeds) if (spec.shape, spec.dtype) in wanted]
    looks = _looks(source, network, both) if both else {}
    by_look: dict[tuple[object, bytes], list[str]] = defaultdict(list)
    for spec in feeds:
        if spec.name in looks:
            by_look[(spec.shape, spec.dtype), looks[spec.name]].append(spec.name)
    found: dict[str, str] = {}
    for spec in spare:
        look = looks.get(spec.name)
        if look is None or _is_even(look, spec.dtype.itemsize):
            continue
        for name in by_look.get(((spec.shape, spec.dtype), look), ()):
            if same_values(source, network, spec.name, name):
                found[spec.name] = name
                break
    return found


def _is_even(look: bytes, itemsize: int) -> bool:
    return look == look[:itemsize] * (len(look) // itemsize)


def _looks(source: Source, network: str, specs: Iterable[TensorSpec]) -> dict[str, bytes]:
    """Return the first bytes of each tensor, read in the order of the file."""
    buffers = {spec.name: memoryview(bytearray(min(SAMPLE, spec.nbytes))) for spec in specs}
    order = sorted(buffers, key=lambda name: source.position(network, name))
    source.read_pieces([Piece(network, name, 0, buffers[name]) for name in order])
    return {name: bytes(buffer) for name, buffer in buffers.items()}


# Vectors of power iteration (torch's spectral norm, both ways of writing it): of length 1 by construction.
POWER = ("weight_u", "weight_v", "_u", "_v")
# Half-precision files round frequencies and lengths by less than this.
NEAR = 0.01


def odd_buffers(made: Plan, source: Source, model: object) -> tuple[Objection, ...]:
    """Return objections to power-iteration vectors that were averaged, and rotary frequencies of another base."""
    return (*_averaged(made, source), *_other_frequencies(made, source, model))


def _averaged(made: Plan, source: Source) -> Iterator[Objection]:
    """An average of unit vectors is shorter than 1, and sigma = u W v computed with it is too small."""
    keys = {f.key: f.network for step in made.steps for f in step.feeds if f.key.rpartition(".")[2] in POWER}
    odd = [key for key, network in keys.items() if _length_is_odd(source.read(network, key))]
    if odd:
        yield Objection(
            "buffers",
            f"{listed(odd)}: vectors of a spectral norm whose length isn't 1, as if several models were averaged; the norm "
            "that they give is wrong: take them from the model that was trained, or run it in training mode for some steps",
            tuple(odd),
        )


def _length_is_odd(vector: Tensor) -> bool:
    return vector.ndim == 1 and vector.is_floating_point() and abs(float(vector.double().norm()) - 1) > NEAR


def _other_frequencies(made: Plan, source: Source, model: object) -> Iterator[Objection]:
    """Frequencies follow from base and scaling: weights trained with some make another function with others."""
    keys = [key for key in made.source_specs if key.rpartition(".")[2] in FREQUENCIES]
    mine = _frequencies(model) if keys else {}
    for key in keys:
        stored = source.read(made.network, key)
        same = [(name, value) for name, value in mine.items() if value.shape == stored.shape]
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


def _frequencies(model: Any) -> dict[str, Tensor]:
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
