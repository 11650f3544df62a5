"""A plan kept in a file: its documented JSON, read back and checked before anything is done by it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.objections import Objection
from torchgraft.core.plan import (
    Alternative,
    Certainty,
    Feed,
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
from torchgraft.core.system.json_files import naming_the_file, read_json, read_spec, rows, text, texts
from torchgraft.ops import read_ops, step_specs

SCHEMA = "torchgraft.report/1"
LARGEST = 1 << 30


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Return the plan in the file at `path`. The file is data: nothing in it is run.

    Raises:
        CheckpointError: there is no such file (MissingFileError), or it is too large.
        UsageError: it holds no plan, or a broken one.
    """
    shown = printable(os.fsdecode(path))
    data = read_json(path, LARGEST, "plan")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("policy"), dict):
        raise UsageError(f"{shown} is no plan: expected the JSON of `torchgraft plan`, schema {SCHEMA}, with a policy")
    with naming_the_file(shown, "plan"):
        return _plan(data)


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
        edited = "" if name in planned else f", or, where you edited it, give the tensor {_FATES[side]}"
        raise UsageError(f"the plan was made for another {side}: {said}; make it again for this one{edited}")


# What a plan has for each tensor of either side.
_FATES = {"checkpoint": 'a slot that it feeds, or an entry in "unused"', "model": 'an entry in "slots"'}


def _words(spec: TensorSpec | None) -> str:
    return "not there" if spec is None else f"{list(spec.shape)} {spec.dtype}"


def _expect_shape(step: Step, networks: Mapping[str, Mapping[str, TensorSpec]]) -> None:
    """Follow a step's shapes through its ops.

    Raises:
        UsageError: a feed is missing, an op does not take what it gets, or another shape comes out.
    """
    if not step.feeds and not step.ops:
        return

    def spec_of(feed: Feed) -> TensorSpec:
        try:
            return networks[feed.network][feed.key]
        except KeyError:
            said = f"{printable(step.slot.name)} from {printable(feed.key)}, which is not there"
            raise UsageError(f"the plan feeds {said}") from None

    specs = step_specs(step, spec_of, [step.slot.spec] if step.base else [])
    wanted = result_shape(step.slot.spec.shape, step.rows)
    if len(specs) != 1 or specs[0].shape != wanted:
        shapes = " and ".join(str(list(spec.shape)) for spec in specs)
        raise UsageError(f"the plan makes {shapes} for {printable(step.slot.name)}, which takes {list(wanted)}")


def _plan(data: Mapping[str, Any]) -> Plan:
    network = text(data["network"])
    steps = tuple(_step(item) for item in rows(data, "slots"))
    unused = tuple(_unused(item) for item in rows(data, "unused"))
    specs = {unused.spec.name: unused.spec for unused in unused if unused.network == network}
    for item in data["slots"]:
        for feed in item["feeds"]:
            if feed["network"] == network and feed["shape"] is not None:
                specs[feed["key"]] = read_spec(feed["key"], feed)
    return Plan(
        steps=steps,
        unused=unused,
        network=network,
        source_specs=specs,
        policy=_policy(data["policy"]),
        objections=tuple(
            Objection(text(o["kind"]), text(o["fact"]), texts(o["names"]), text(o["remedy"]))
            for o in data["objections"]
        ),
        notes=texts(data["notes"]),
        origin=text(data["origin"]),
        format=text(data["format"]),
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
        unproved=texts(data["unproved"]),
        reason=text(data["reason"]),
        parts=tuple(
            Part(
                module=text(part["module"]),
                source_module=text(part["source_module"]),
                means=Means(part["means"]),
                slots=texts(part["slots"]),
                relative=_number(part["relative"]),
                root=text(part["root"]),
            )
            for part in data["parts"]
        ),
        seal=None if seal is None else Seal(**{name: text(seal[name]) for name in ("inputs", "steps", "values")}),
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
        spec=read_spec(item["name"], item),
        aliases=texts(item["aliases"]),
        kind=text(item["module"]),
        is_buffer=item["buffer"] is True,
        persistent=item["persistent"] is not False,
    )
    return Step(
        slot=slot,
        feeds=tuple(Feed(text(f["key"]), read_ops(f["ops"]), text(f["network"])) for f in item["feeds"]),
        ops=read_ops(item["ops"]),
        base=item["base"] is True,
        rows=_rows(item["rows"], slot),
        made=_rows(item["made"], slot),
        why=_why(item["why"]),
        certainty=Certainty(item["certainty"]),
        alternatives=tuple(Alternative(texts(a["keys"]), text(a["text"])) for a in item["alternatives"]),
        quiet=item["quiet"] is True,
    )


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
        spec=read_spec(item["key"], item),
        network=text(item["network"]),
        why=_why(item["why"]),
        quiet=item["quiet"] is True,
        similar=texts(item["similar"]),
        same_as=text(item.get("same_as", "")),
    )


def _why(data: Mapping[str, Any]) -> Why:
    doubted_by = text(data.get("doubted_by", ""))
    return Why(text(data["rule"]), text(data["text"]), texts(data["evidence"]), text(data["doubt"]), doubted_by)
