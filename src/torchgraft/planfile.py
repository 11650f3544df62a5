"""A plan kept in a file: its documented JSON, read back and checked before anything is done by it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.plan import (
    Alternative,
    Certainty,
    Feed,
    Objection,
    Op,
    Plan,
    Rows,
    Step,
    Unused,
    Why,
    result_shape,
)
from torchgraft.core.policy import Policy, Verdict
from torchgraft.core.proof import Means, Part, Proof, Seal
from torchgraft.core.specs import Slot, Source, Target, TensorSpec
from torchgraft.core.system.stored import read_json
from torchgraft.ops import from_dict

SCHEMA = "torchgraft.report/1"
LARGEST = 1 << 30


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Return the plan in the file at `path`. The file is data: nothing in it is run.

    Raises:
        CheckpointError: there is no such file, or it is too large.
        UsageError: it holds no plan, or a broken one.
    """
    shown = printable(os.fsdecode(path))
    data = read_json(path, LARGEST, "plan")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("policy"), dict):
        raise UsageError(f"{shown} is no plan: expected the JSON of `torchgraft plan`, schema {SCHEMA}, with a policy")
    try:
        return _plan(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"{shown} is a broken plan: {printable(said, 300)}") from error


def fitted(plan: Plan, source: Source, target: Target) -> Plan:
    """Return the plan on the slots of the model at hand, after comparing both sides with those that it was made for.

    Values may be others: a plan serves every checkpoint and every model of these names, shapes and types.

    Raises:
        UsageError: the checkpoint or the model is another, or a step does not make what its slot takes.
    """
    networks = {network.path: network.specs for network in source.networks}
    if plan.network not in networks:
        raise UsageError(f"the plan is for network {printable(plan.network)!r}, which {printable(source.origin)} lacks")
    _expect_same("checkpoint", plan.source_specs, networks[plan.network])
    mine = {slot.name: slot for slot in target.slots}
    planned = {step.slot.name: step.slot for step in plan.steps}
    if len(planned) != len(plan.steps):
        raise UsageError("the plan is broken: it fills one slot twice")
    _expect_same("model", {n: s.spec for n, s in planned.items()}, {n: s.spec for n, s in mine.items()})
    for name, slot in planned.items():
        if set(slot.names) != set(mine[name].names):
            said = f"{name} is also {', '.join(mine[name].aliases) or 'nothing else'}"
            raise UsageError(f"the plan is for a model with other ties: {printable(said, 200)}; make it again")
    steps = tuple(replace(step, slot=mine[step.slot.name]) for step in plan.steps)
    for step in steps:
        _expect_shape(step, networks)
    return replace(plan, steps=steps, origin=source.origin, format=source.format)


def _expect_same(side: str, planned: Mapping[str, TensorSpec], found: Mapping[str, TensorSpec]) -> None:
    differing = [name for name in (*planned, *found) if planned.get(name) != found.get(name)]
    if differing:
        name = differing[0]
        here, there = (_words(side_specs.get(name)) for side_specs in (found, planned))
        more = len(set(differing)) - 1
        others = f", and {more} more differ{'s' if more == 1 else ''}" if more else ""
        said = f"{printable(name)} is {here} here and {there} in the plan{others}"
        raise UsageError(f"the plan was made for another {side}: {said}; make it again for this one")


def _words(spec: TensorSpec | None) -> str:
    return "not there" if spec is None else f"{list(spec.shape)} {spec.dtype}"


def _expect_shape(step: Step, networks: Mapping[str, Mapping[str, TensorSpec]]) -> None:
    """Follow a step's shapes through its ops.

    Raises:
        UsageError: a feed is missing, an op does not take what it gets, or another shape comes out.
    """
    if not step.feeds and not step.ops:
        return
    specs = [step.slot.spec] if step.base else []
    for feed in step.feeds:
        spec = networks.get(feed.network, {}).get(feed.key)
        if spec is None:
            raise UsageError(
                f"the plan feeds {printable(step.slot.name)} from {printable(feed.key)}, which is not there"
            )
        for op in feed.ops:
            spec = op.out_spec([spec])
        specs.append(spec)
    for op in step.ops:
        specs = [op.out_spec(specs)]
    wanted = result_shape(step.slot.spec.shape, step.rows)
    if len(specs) != 1 or specs[0].shape != wanted:
        shapes = " and ".join(str(list(spec.shape)) for spec in specs)
        raise UsageError(f"the plan makes {shapes} for {printable(step.slot.name)}, which takes {list(wanted)}")


def _plan(data: Mapping[str, Any]) -> Plan:
    network = _text(data["network"])
    steps = tuple(_step(item) for item in data["slots"])
    unused = tuple(_unused(item) for item in data["unused"])
    specs = {unused.spec.name: unused.spec for unused in unused if unused.network == network}
    for item in data["slots"]:
        for feed in item["feeds"]:
            if feed["network"] == network and feed["shape"] is not None:
                specs[feed["key"]] = _spec(feed["key"], feed)
    return Plan(
        steps=steps,
        unused=unused,
        network=network,
        source_specs=specs,
        policy=_policy(data["policy"]),
        objections=tuple(
            Objection(_text(o["kind"]), _text(o["text"]), tuple(map(_text, o["names"]))) for o in data["objections"]
        ),
        notes=tuple(map(_text, data["notes"])),
        origin=_text(data["origin"]),
        format=_text(data["format"]),
        proof=_proof(data["proof"]) if data.get("proof") else None,
    )


def _proof(data: Mapping[str, Any]) -> Proof:
    seal = data["seal"]
    return Proof(
        inputs=int(data["inputs"]),
        relative=_number(data["relative"]),
        tolerance=_number(data["tolerance"]),
        passed=data["passed"] is True,
        kept=data["kept"] is True,
        unproved=tuple(map(_text, data["unproved"])),
        reason=_text(data["reason"]),
        parts=tuple(
            Part(
                module=_text(part["module"]),
                source_module=_text(part["source_module"]),
                means=Means(part["means"]),
                slots=tuple(map(_text, part["slots"])),
                relative=_number(part["relative"]),
                root=_text(part["root"]),
            )
            for part in data["parts"]
        ),
        seal=None if seal is None else Seal(**{name: _text(seal[name]) for name in ("inputs", "steps", "values")}),
    )


def _number(value: object) -> float:
    """Return a number; infinity and NaN are text in JSON."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise UsageError(f"a number is expected, not {value!r:.80}")
    return float(value)


def _policy(data: Mapping[str, Any]) -> Policy:
    known = {field.name for field in fields(Policy)} - {"min_coverage"}
    verdicts: dict[str, Any] = {kind: Verdict(value) for kind, value in data.items() if kind in known}
    return Policy(**verdicts, min_coverage=float(data["min_coverage"]))


def _step(item: Mapping[str, Any]) -> Step:
    slot = Slot(
        spec=_spec(item["name"], item),
        aliases=tuple(map(_text, item["aliases"])),
        kind=_text(item["module"]),
        is_buffer=item["buffer"] is True,
        persistent=item["persistent"] is not False,
    )
    return Step(
        slot=slot,
        feeds=tuple(Feed(_text(f["key"]), _ops(f["ops"]), _text(f["network"])) for f in item["feeds"]),
        ops=_ops(item["ops"]),
        base=item["base"] is True,
        rows=_rows(item["rows"], slot),
        made=_rows(item["made"], slot),
        why=_why(item["why"]),
        certainty=Certainty(item["certainty"]),
        alternatives=tuple(Alternative(tuple(map(_text, a["keys"])), _text(a["text"])) for a in item["alternatives"]),
        quiet=item["quiet"] is True,
    )


def _ops(data: Iterable[object]) -> tuple[Op, ...]:
    return tuple(from_dict(op) for op in data)


def _rows(data: Mapping[str, Any] | None, slot: Slot) -> Rows | None:
    if data is None:
        return None
    dim, indices, shape = data["dim"], tuple(data["indices"]), slot.spec.shape
    if type(dim) is not int or not 0 <= dim < len(shape):
        raise UsageError(f"{slot.name} has no dimension {dim!r}")
    if not all(type(n) is int and 0 <= n < shape[dim] for n in indices) or len(set(indices)) != len(indices):
        raise UsageError(f"{slot.name}: rows outside its {shape[dim]}, or twice")
    return Rows(dim, indices)


def _unused(item: Mapping[str, Any]) -> Unused:
    return Unused(
        spec=_spec(item["key"], item),
        network=_text(item["network"]),
        why=_why(item["why"]),
        quiet=item["quiet"] is True,
        similar=tuple(map(_text, item["similar"])),
    )


def _why(data: Mapping[str, Any]) -> Why:
    return Why(_text(data["rule"]), _text(data["text"]), tuple(map(_text, data["evidence"])), _text(data["doubt"]))


def _spec(name: object, item: Mapping[str, Any]) -> TensorSpec:
    shape = item["shape"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise UsageError(f"{name} has the shape {shape!r:.80}")
    return TensorSpec(_text(name), tuple(shape), DType.of(_text(item["dtype"])))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f"a text is expected, not {value!r:.80}")
    return value
