"""SHA-256 digests: of a checkpoint's tensors beside those that its writer stated, and of all that a proof was made of.

A proof is void once its inputs, its steps or the values that these read are others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from torchgraft.core.facts import digests_of
from torchgraft.core.plan import Op, Plan, Rows, Step
from torchgraft.core.proof import Seal
from torchgraft.core.results.inspection import DigestCheck
from torchgraft.core.specs import Network, Source, TensorSpec, pieces_of
from torchgraft.core.system.progress import Ticks
from torchgraft.core.values import bytes_of


def check_digests(source: Source, network: Network, progress: Callable[[int, int], None] | None = None) -> DigestCheck:
    """Read every tensor of `network`, in file order, and compare it with the SHA-256 that the checkpoint states.

    In memory at one time: a piece of one tensor. A tensor that lies there under several names is read once. `progress`
    is called with bytes done and in all.

    Raises:
        CheckpointError: a tensor can't be read, or a checksum of the format itself is wrong.
    """
    stated, shared = digests_of(source.metadata), network.shared or {}
    differing, without = [], []
    names = [name for name in network.specs if name not in shared]
    tick = Ticks(progress, sum(network.specs[name].nbytes for name in names)).tick
    for name in sorted(names, key=lambda name: source.position(network.path, name)):
        actual = digest(source, network.path, network.specs[name], tick)
        if name not in stated:
            without.append(name)
        elif stated[name] != actual:
            differing.append(name)
    missing = tuple(name for name in stated if name not in network.specs)
    compared = len(names) - len(without)
    return DigestCheck(compared=compared, differing=tuple(differing), missing=missing, without=tuple(without))


def digest(source: Source, network: str, spec: TensorSpec, tick: Callable[[int], None]) -> str:
    """Return the SHA-256 (hex) of a tensor's bytes in C order, little-endian on the machines that torchgraft writes on.

    `tick` is called with the number of bytes of each piece that was read.
    """
    hasher = sha256()
    for piece in pieces_of(source, network, spec):
        hasher.update(piece)
        tick(len(piece))
    return hasher.hexdigest()


def seal_proof(plan: Plan, source: Source, inputs: Sequence[Any]) -> Plan:
    """Return the plan with its proof sealed: bound to its steps and to the values that they read, all of them read once more.

    Raises:
        CheckpointError: a tensor can't be read.
    """
    if plan.proof is None:
        return plan
    seal = Seal(inputs=_inputs_digest(inputs), steps=_steps_digest(plan), values=_values_digest(plan, source))
    return replace(plan, proof=replace(plan.proof, seal=seal))


def recheck_proof(plan: Plan, source: Source) -> Plan:
    """Return a plan that was kept, with its proof if that still holds: the same steps, and a source of the same values.

    A proof that doesn't is left out, with a note. The values that the steps read are read for it.

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
        lost = "the checkpoint holds other values than the one it was made with"
    else:
        kept = replace(proof, kept=True)
        return replace(plan, proof=kept, notes=(*notes, kept.words()))
    void = f"the plan's own proof no longer holds: {lost}; prove it again with inputs="
    return replace(plan, proof=None, notes=(*notes, void))


def _steps_digest(plan: Plan) -> str:
    """Return the SHA-256 of what the steps do, without what only describes them."""
    return sha256(json.dumps([_step_to_plain(step) for step in plan.steps], default=list).encode()).hexdigest()


def _step_to_plain(step: Step) -> list[object]:
    spec = step.slot.spec
    feeds = [[feed.network, feed.key, _ops_to_plain(feed.ops)] for feed in step.feeds]
    return [
        spec.name,
        spec.shape,
        str(spec.dtype),
        feeds,
        _ops_to_plain(step.ops),
        step.base,
        _rows_to_plain(step.rows),
        _rows_to_plain(step.made),
    ]


def _ops_to_plain(ops: Sequence[Op]) -> list[object]:
    return [sorted(op.to_dict().items(), key=lambda item: item[0]) for op in ops]


def _rows_to_plain(rows: Rows | None) -> object:
    return None if rows is None else [rows.dim, rows.indices]


def _values_digest(plan: Plan, source: Source) -> str:
    """Return the SHA-256 of the digests of all tensors that the steps read."""
    specs = {network.path: network.specs for network in source.networks}
    hasher = sha256()
    for network, key in sorted({(feed.network, feed.key) for step in plan.steps for feed in step.feeds}):
        hasher.update(f"{network}\0{key}\0{digest(source, network, specs[network][key], lambda _: None)}\n".encode())
    return hasher.hexdigest()


def _inputs_digest(inputs: Sequence[Any]) -> str:
    """Return the SHA-256 of all inputs; empty where one is a callable, which no digest can tell from another."""
    hasher = sha256()
    for part in _input_bytes(list(inputs)):
        if part is None:
            return ""
        hasher.update(part)
    return hasher.hexdigest()


def _input_bytes(given: Any) -> Iterator[bytes | None]:
    import torch

    if isinstance(given, torch.Tensor):
        yield f"{given.dtype} {list(given.shape)}".encode()
        yield bytes_of(given).tobytes()
    elif isinstance(given, Mapping):
        for name, value in given.items():
            yield str(name).encode()
            yield from _input_bytes(value)
    elif isinstance(given, (list, tuple)):
        for value in given:
            yield from _input_bytes(value)
    else:
        yield None if callable(given) else repr(given).encode()
