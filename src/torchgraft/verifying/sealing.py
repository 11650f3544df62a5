"""What a proof was made of: digests of the inputs, the steps and the values, so that it is void once one of them changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from torchgraft.core.plan import Op, Plan, Rows, Step
from torchgraft.core.proof import Seal
from torchgraft.core.specs import Source
from torchgraft.verifying.values.digests import digest


def sealed(plan: Plan, source: Source, inputs: Sequence[Any]) -> Plan:
    """Return the plan with its proof sealed: bound to its steps and to the values that they read, all of them read once more.

    Raises:
        CheckpointError: a tensor can't be read.
    """
    if plan.proof is None:
        return plan
    seal = Seal(inputs=_inputs_digest(inputs), steps=_steps_digest(plan), values=_values_digest(plan, source))
    return replace(plan, proof=replace(plan.proof, seal=seal))


def still_proved(plan: Plan, source: Source) -> Plan:
    """Return a plan that was kept, with its proof if that still holds: the same steps, and a source of the same values.

    A proof that doesn't is left out, and that is said. The values that the steps read are read for it.

    Raises:
        CheckpointError: a tensor can't be read.
    """
    proof = plan.proof
    if proof is None:
        return plan
    notes = tuple(note for note in plan.notes if note != proof.words())
    if proof.seal is None or proof.seal.steps != _steps_digest(plan):
        lost = "its steps were changed since"
    elif proof.seal.values != _values_digest(plan, source):
        lost = "the checkpoint holds other values than that it was made with"
    else:
        kept = replace(proof, kept=True)
        return replace(plan, proof=kept, notes=(*notes, kept.words()))
    void = f"the proof that the plan was kept with is void: {lost}; prove it again with inputs="
    return replace(plan, proof=None, notes=(*notes, void))


def _steps_digest(plan: Plan) -> str:
    """Return the SHA-256 of what the steps do, and of nothing that is only said of them."""
    return sha256(json.dumps([_plain(step) for step in plan.steps], default=list).encode()).hexdigest()


def _plain(step: Step) -> list[object]:
    spec = step.slot.spec
    feeds = [[feed.network, feed.key, _ops(feed.ops)] for feed in step.feeds]
    return [
        spec.name,
        spec.shape,
        str(spec.dtype),
        feeds,
        _ops(step.ops),
        step.base,
        _rows(step.rows),
        _rows(step.made),
    ]


def _ops(ops: Sequence[Op]) -> list[object]:
    return [sorted(op.to_dict().items(), key=lambda item: item[0]) for op in ops]


def _rows(rows: Rows | None) -> object:
    return None if rows is None else [rows.dim, rows.indices]


def _values_digest(plan: Plan, source: Source) -> str:
    """Return the SHA-256 of the digests of all tensors that the steps read."""
    specs = {network.path: network.specs for network in source.networks}
    found = sha256()
    for network, key in sorted({(feed.network, feed.key) for step in plan.steps for feed in step.feeds}):
        found.update(f"{network}\0{key}\0{digest(source, network, specs[network][key], _nothing)}\n".encode())
    return found.hexdigest()


def _nothing(_: int) -> None:
    """Nobody listens."""


def _inputs_digest(inputs: Sequence[Any]) -> str:
    """Return the SHA-256 of all inputs; empty where one is a callable, which no digest can tell from another."""
    found = sha256()
    for part in _parts(list(inputs)):
        if part is None:
            return ""
        found.update(part)
    return found.hexdigest()


def _parts(given: Any) -> Iterator[bytes | None]:
    import torch

    if isinstance(given, torch.Tensor):
        flat = given.detach().to("cpu").contiguous().reshape(-1)
        yield f"{given.dtype} {list(given.shape)}".encode()
        yield flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    elif isinstance(given, Mapping):
        for name, value in given.items():
            yield str(name).encode()
            yield from _parts(value)
    elif isinstance(given, (list, tuple)):
        for value in given:
            yield from _parts(value)
    else:
        yield None if callable(given) else repr(given).encode()
