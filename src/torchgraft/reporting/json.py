"""Plans and reports as plain data under a versioned schema; docs/reference/report-schema.md documents every field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from math import isfinite
from typing import TYPE_CHECKING

from torchgraft.core.fingerprints import of_slots, of_specs
from torchgraft.core.policy import Verdict
from torchgraft.reporting.sections import by_fate
from torchgraft.reporting.views import counts, placed_counts, plan_verdict, report_verdict

if TYPE_CHECKING:
    from torchgraft.core.plan import Coverage, Feed, Objection, Plan, Rows, Step, Unused, Why
    from torchgraft.core.proof import Part, Proof
    from torchgraft.core.results.report import Mapped, Report
    from torchgraft.core.specs import TensorSpec

SCHEMA = "torchgraft.report/1"

Data = dict[str, object]


def plan_to_dict(plan: Plan) -> Data:
    """Return a plan as data that `json.dumps` takes as it is."""
    return {"schema": SCHEMA, "kind": "plan", **_head(plan, plan_verdict(plan)), **_body(plan)}


def report_to_dict(report: Report) -> Data:
    """Return a report as data that `json.dumps` takes as it is: the plan's, with checks and cost."""
    plan, cost = report.plan, report.cost
    return {
        "schema": SCHEMA,
        "kind": "report",
        **_head(plan, report_verdict(report)),
        "checks": [{"name": c.name, "passed": c.passed, "text": c.text} for c in report.checks],
        "cost": {
            "plan_seconds": cost.plan_seconds,
            "apply_seconds": cost.apply_seconds,
            "bytes_read": cost.bytes_read,
            "bytes_written": cost.bytes_written,
            "undo_bytes": cost.undo_bytes,
        },
        "initialised": list(report.initialised),
        "mapped": None if report.mapped is None else _mapped(report.mapped),
        **_body(plan),
    }


def plain(value: object) -> object:
    """Return `value` with sequences as lists and everything JSON has no word for as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and isfinite(value):
        return value
    return str(value)


def _head(plan: Plan, verdict: str) -> Data:
    filled, total = placed_counts(plan)
    return {
        "verdict": verdict,
        "refused": bool(plan.refusals),
        "origin": plan.origin,
        "format": plan.format,
        "network": plan.network,
        "tensors": {"placed": filled, "total": total},
        "coverage": _coverage(plan.coverage),
        "counts": counts(plan, by_fate(plan)),
    }


def _body(plan: Plan) -> Data:
    return {
        "objections": [_objection(plan, objection) for objection in plan.objections],
        "notes": list(plan.notes),
        "proof": None if plan.proof is None else _proof(plan.proof),
        "slots": [_step(step, plan.source_specs) for step in plan.steps],
        "unused": [_unused(unused) for unused in plan.unused],
        "policy": {
            field.name: value.value if isinstance(value := getattr(plan.policy, field.name), Verdict) else value
            for field in fields(plan.policy)
        },
        "fingerprints": {
            "source": of_specs(plan.source_specs.values()),
            "target": of_slots(step.slot for step in plan.steps),
        },
    }


def _coverage(cover: Coverage) -> Data:
    return {
        "target": cover.target,
        "source": cover.source,
        "target_elements": cover.target_elements,
        "target_filled": cover.target_filled,
        "target_bytes": cover.target_bytes,
        "target_bytes_filled": cover.target_bytes_filled,
        "source_elements": cover.source_elements,
        "source_used": cover.source_used,
    }


def _mapped(mapped: Mapped) -> Data:
    return {
        "slots": list(mapped.slots),
        "bytes": mapped.nbytes,
        "prefaulted": mapped.prefaulted,
        "owned": dict(mapped.owned),
    }


def _proof(proof: Proof) -> Data:
    return {
        "inputs": proof.inputs,
        "relative": plain(proof.relative),
        "tolerance": proof.tolerance,
        "passed": proof.passed,
        "parts": [part_data(part) for part in proof.parts],
        "unproved": list(proof.unproved),
        "reason": proof.reason,
        "kept": proof.kept,
        "seal": None
        if proof.seal is None
        else {"inputs": proof.seal.inputs, "steps": proof.seal.steps, "values": proof.seal.values},
    }


def part_data(part: Part) -> Data:
    """Return tensors that are proved together as data."""
    return {
        "module": part.module,
        "source_module": part.source_module,
        "slots": list(part.slots),
        "relative": plain(part.relative),
        "means": part.means.value,
        "root": part.root,
    }


def _objection(plan: Plan, objection: Objection) -> Data:
    verdict = plan.policy.verdict(objection.kind).value
    return {"kind": objection.kind, "verdict": verdict, "text": objection.text, "names": list(objection.names)}


def _step(step: Step, specs: Mapping[str, TensorSpec]) -> Data:
    slot = step.slot
    return {
        "name": slot.name,
        "aliases": list(slot.aliases),
        "shape": list(slot.spec.shape),
        "dtype": str(slot.spec.dtype),
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
        "rows": _rows(step.rows),
        "made": _rows(step.made),
        "known": _rows(step.known),
        "why": _why(step.why),
        "alternatives": [{"keys": list(a.keys), "text": a.text} for a in step.alternatives],
    }


def _rows(rows: Rows | None) -> Data | None:
    return None if rows is None else {"dim": rows.dim, "indices": list(rows.indices)}


def _feed(feed: Feed, specs: Mapping[str, TensorSpec]) -> Data:
    spec = specs.get(feed.key)
    return {
        "network": feed.network,
        "key": feed.key,
        "shape": None if spec is None else list(spec.shape),
        "dtype": None if spec is None else str(spec.dtype),
        "ops": [plain(op.to_dict()) for op in feed.ops],
    }


def _unused(unused: Unused) -> Data:
    return {
        "network": unused.network,
        "key": unused.spec.name,
        "shape": list(unused.spec.shape),
        "dtype": str(unused.spec.dtype),
        "quiet": unused.quiet,
        "why": _why(unused.why),
        "similar": list(unused.similar),
    }


def _why(why: Why) -> Data:
    return {"rule": why.rule, "text": why.text, "evidence": list(why.evidence), "doubt": why.doubt}
