"""Results as plain data under versioned schemas; docs/reference/report-schema.md documents every field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from hashlib import sha256
from math import isfinite
from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.facts import DIGESTS, digests_of
from torchgraft.core.plan import Feed, Plan, Step, Unused
from torchgraft.core.results.diff import Change, Diff
from torchgraft.core.results.inspection import Inspection, Moments, Statistics
from torchgraft.core.results.report import Report, Saved
from torchgraft.core.results.verification import Hyperparameters, Verification
from torchgraft.core.specs import Shape, Slot, TensorSpec
from torchgraft.reporting.plan_sections import by_fate
from torchgraft.reporting.plan_views import counts, placed_counts, plan_verdict, report_verdict
from torchgraft.reporting.verification_views import verification_view

Data = dict[str, object]


def plain(value: object) -> Any:
    """Return `value` as JSON has it: dataclasses as tables of their fields, sequences as lists, all else as text."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, Enum):
        return value.value if isinstance(value.value, str) else str(value)
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float) and isfinite(value):
        return value
    if is_dataclass(value):
        return {json_name: plain(getattr(value, name)) for name, json_name in _field_names(value.__class__)}
    return str(value)


@cache
def _field_names(kind: Any) -> list[tuple[str, str]]:
    """Return the fields of a dataclass, each with what the schema calls it."""
    return [
        (one.name, "bytes" if one.name == "nbytes" else one.name) for one in fields(kind) if one.name != "renderers"
    ]


def plan_to_dict(plan: Plan) -> Data:
    """Return a plan as data that `json.dumps` takes as it is."""
    return {"schema": "torchgraft.report/1", "kind": "plan", **_head(plan, plan_verdict(plan)), **_body(plan)}


def report_to_dict(report: Report) -> Data:
    """Return a report as data that `json.dumps` takes as it is: the plan's, with checks and cost."""
    plan = report.plan
    return {
        "schema": "torchgraft.report/1",
        "kind": "report",
        **_head(plan, report_verdict(report)),
        "checks": plain(report.checks),
        "cost": plain(report.cost),
        "initialised": list(report.initialised),
        "mapped": plain(report.mapped),
        **_body(plan),
    }


def _head(plan: Plan, verdict: str) -> Data:
    filled, total = placed_counts(plan)
    cover = plan.coverage
    return {
        "verdict": verdict,
        "refused": bool(plan.refusals),
        "origin": plan.origin,
        "format": plan.format,
        "network": plan.network,
        "tensors": {"placed": filled, "total": total},
        "coverage": {"target": cover.target, "source": cover.source, **plain(cover)},
        "counts": counts(plan, by_fate(plan)),
    }


def _body(plan: Plan) -> Data:
    verdict = plan.policy.verdict
    return {
        "objections": [{**plain(o), "text": o.text, "verdict": verdict(o.kind).value} for o in plan.objections],
        "notes": list(plan.notes),
        "proof": plain(plan.proof),
        "slots": [_step(step, plan.source_specs) for step in plan.steps],
        "unused": [_unused(unused) for unused in plan.unused],
        "policy": plain(plan.policy),
        "fingerprints": {
            "source": source_fingerprint(plan.source_specs.values()),
            "target": target_fingerprint(step.slot for step in plan.steps),
        },
    }


def _step(step: Step, specs: Mapping[str, TensorSpec]) -> Data:
    slot = step.slot
    return {
        "name": slot.name,
        "aliases": list(slot.aliases),
        **_shape_and_dtype(slot.spec.shape, slot.spec.dtype),
        "module": slot.kind,
        "buffer": slot.is_buffer,
        "persistent": slot.persistent,
        "action": step.action.value,
        "certainty": step.certainty.value,
        "quiet": step.quiet,
        "filled": step.filled,
        "words": step.words(),
        "feeds": [_feed(feed, specs) for feed in step.feeds],
        "ops": [plain(op.to_dict()) for op in step.ops],
        "base": step.base,
        "rows": plain(step.rows),
        "made": plain(step.made),
        "known": plain(step.known),
        "why": plain(step.why),
        "alternatives": plain(step.alternatives),
    }


def _shape_and_dtype(shape: Shape, dtype: DType) -> Data:
    return {"shape": list(shape), "dtype": str(dtype)}


def _feed(feed: Feed, specs: Mapping[str, TensorSpec]) -> Data:
    spec = specs.get(feed.key)
    kind = _shape_and_dtype(spec.shape, spec.dtype) if spec else {"shape": None, "dtype": None}
    return {"network": feed.network, "key": feed.key, **kind, "ops": [plain(op.to_dict()) for op in feed.ops]}


def _unused(unused: Unused) -> Data:
    return {
        "network": unused.network,
        "key": unused.spec.name,
        **_shape_and_dtype(unused.spec.shape, unused.spec.dtype),
        "quiet": unused.quiet,
        "why": plain(unused.why),
        "similar": list(unused.similar),
        "same_as": unused.same_as,
    }


def inspection_to_dict(found: Inspection) -> Data:
    """Return an inspection as data that `json.dumps` takes as it is."""
    return {**inspection_to_lazy_dict(found), "tensors": plain(found.specs)}


def inspection_to_lazy_dict(found: Inspection) -> Data:
    """Return the same data with an iterator in place of the list of tensors: there may be a million."""
    checked = found.verification
    return {
        "schema": "torchgraft.inspection/1",
        "origin": found.origin,
        "format": found.format,
        "networks": plain(found.networks),
        "chosen": found.chosen,
        "rivals": list(found.rivals),
        "note": found.note,
        "warnings": list(found.warnings),
        "metadata": plain(_with_digest_table(found.metadata)),
        "shared": dict(found.shared),
        "verification": {"passed": checked.passed, **plain(checked)} if checked else None,
        "statistics": _statistics(found.statistics) if found.statistics else None,
        "tensors": map(plain, found.specs),
    }


def _with_digest_table(metadata: Mapping[str, object]) -> dict[str, object]:
    """Return the facts with the digests as a table: a file keeps them as one long text."""
    digests = digests_of(metadata)
    return {**metadata, DIGESTS: digests} if digests else dict(metadata)


def _statistics(found: Statistics) -> Data:
    tensors = {name: _moments(moments) for name, moments in found.tensors.items()}
    return {"suspicions": plain(found.suspicions), "tensors": tensors}


def _moments(found: Moments) -> Data:
    data = plain(found)
    for name in ("below", "rows"):
        del data[name]
    return {"min": data.pop("least"), "max": data.pop("greatest"), **data}


def diff_to_dict(diff: Diff) -> Data:
    """Return a diff as data that `json.dumps` takes as it is."""
    changed = ("shape_changed", "dtype_changed", "value_changed")
    return {
        "schema": "torchgraft.diff/1",
        "old": diff.old,
        "new": diff.new,
        "values": diff.values,
        "equal": diff.equal,
        "hint": diff.hint,
        "notes": list(diff.notes),
        "added": plain(diff.added),
        "removed": plain(diff.removed),
        **{name: [_change(change) for change in getattr(diff, name)] for name in changed},
        "same": [spec.name for spec in diff.same],
        "old_names": dict(diff.old_names),
        "new_names": dict(diff.new_names),
    }


def _change(change: Change) -> Data:
    old, new = (_shape_and_dtype(spec.shape, spec.dtype) for spec in (change.old, change.new))
    return {"name": change.old.name, "old": old, "new": new, "distance": plain(change.distance)}


def saved_to_dict(saved: Saved) -> Data:
    """Return what was written as data that `json.dumps` takes as it is."""
    return {"schema": "torchgraft.saved/1", **plain(saved)}


def verification_to_dict(found: Verification) -> Data:
    """Return a verification as data that `json.dumps` takes as it is."""
    source, target = found.operations
    return {
        "schema": "torchgraft.verification/1",
        "verdict": verification_view(found).verdict,
        "passed": found.passed,
        "inputs": found.inputs,
        "tolerance": found.tolerance,
        "outputs": plain(found.outputs),
        "divergence": plain(found.divergence),
        "causes": plain(found.causes),
        "settings": plain(found.settings),
        "operations": {"source": source, "target": target, "matched": found.matched},
        "complete": found.complete,
        "parts": plain(found.parts),
        "unproved": list(found.unproved),
        "notes": list(found.notes),
        "seconds": found.seconds,
    }


def hyperparameters_to_dict(found: Hyperparameters) -> Data:
    """Return a comparison of settings as data that `json.dumps` takes as it is."""
    settings = plain(found.differences)
    return {
        "schema": "torchgraft.hyperparameters/1",
        "equal": found.equal,
        "compared": found.compared,
        "settings": settings,
    }


def source_fingerprint(specs: Iterable[TensorSpec]) -> str:
    """Return the fingerprint of a checkpoint's network; the order of its tensors is of no account."""
    return _digest("\0".join((spec.name, str(spec.dtype), str(spec.shape))) for spec in specs)


def target_fingerprint(slots: Iterable[Slot]) -> str:
    """Return the fingerprint of a model: its slots under all their names, in whatever order."""
    lines = ((*sorted(slot.names), slot.spec.dtype, slot.spec.shape, slot.persistent) for slot in slots)
    return _digest("\0".join(map(str, line)) for line in lines)


def _digest(lines: Iterable[str]) -> str:
    return "sha256:" + sha256("\n".join(sorted(lines)).encode("utf-8", "surrogatepass")).hexdigest()
