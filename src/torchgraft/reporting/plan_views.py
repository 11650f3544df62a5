"""The views of plans and reports: the verdict first, then what needs attention; harmless tensors as a count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchgraft.core.errors import printable
from torchgraft.core.formatting import grouped, listed, tensors
from torchgraft.core.grounds import Ground
from torchgraft.core.objections import Objection
from torchgraft.core.plan import Action, Plan, Step
from torchgraft.core.results.report import Check, Mapped, Report
from torchgraft.reporting import plan_sections
from torchgraft.reporting.formatting import coverage_words, seconds, size
from torchgraft.reporting.view import Section, View, non_empty, remark_section

VALUES_CHECK = "values"
# Rules by which a tensor of the checkpoint is not used since a used one has its values: both were compared.
DUPLICATE_RULES = (Ground.ALIAS, Ground.ECHO)
NOTABLE_MEMORY = 64 << 20
MMAP_WARNING = (
    "the file must stay as it is while the model lives: a change in place changes the model, a shorter file ends the "
    "process (another file in its place does neither); what is written to a view is copied first, and stays here"
)


def plan_view(plan: Plan) -> View:
    """Return the view of a plan: what would happen."""
    fates = plan_sections.by_fate(plan)
    sections = non_empty(
        plan_sections.objection_section("refused", "bad", plan.refusals),
        *_tensor_sections(plan, fates, 0),
        plan_sections.objection_section("warnings", "care", _warnings_besides_doubt(plan)),
        remark_section("notes", [*plan.notes, *_memory_notes(plan)]),
    )
    return View(
        verdict=plan_verdict(plan),
        tone=_tone_of(plan),
        origin=_origin_words(plan),
        sections=sections,
    )


def report_view(report: Report) -> View:
    """Return the view of a report: what happened. Only what was compared after writing is called loaded."""
    plan = report.plan
    fates = plan_sections.by_fate(plan)
    failed = [check for check in report.checks if not check.passed]
    compared = _values_compared(report)
    sections = non_empty(
        remark_section("failed", map(_check_words, failed), "bad"),
        plan_sections.objection_section("refused", "bad", plan.refusals),
        *_tensor_sections(plan, fates, len(report.initialised)),
        plan_sections.objection_section("warnings", "care", _warnings_besides_doubt(plan)),
        remark_section("mapped", _mapped_notes(report.mapped)),
        remark_section("notes", plan.notes),
    )
    if sections or not compared:
        passed = [_check_words(check) for check in report.checks if check.passed]
        sections = non_empty(*sections, remark_section("checks", passed))
    return View(
        verdict=report_verdict(report),
        tone=_tone_of(plan) if compared and not failed else "bad",
        origin="; ".join(text for text in (_origin_words(plan), _cost_words(report)) if text),
        sections=sections,
    )


def _warnings_besides_doubt(plan: Plan) -> Sequence[Objection]:
    """Return the warnings without those of doubt, which have a section of their own."""
    return [warning for warning in plan.warnings if warning.kind != "doubt"]


def plan_verdict(plan: Plan) -> str:
    """Return the first line of a plan."""
    refused = len(plan.refusals)
    head = f"refused for {refused} reason{'s' if refused > 1 else ''}; " if refused else ""
    return f"{head}would load {_placed_words(plan)}{_to_look_at(plan)}"


def report_verdict(report: Report) -> str:
    """Return the first line of a report."""
    failed = [printable(check.name) for check in report.checks if not check.passed]
    if failed:
        return f"FAILED: {', '.join(failed)} did not hold; wrote {_placed_words(report.plan)}"
    if not _values_compared(report):
        return f"not compared after writing; wrote {_placed_words(report.plan)}"
    return f"loaded {_placed_words(report.plan)}{_to_look_at(report.plan)}"


def _to_look_at(plan: Plan) -> str:
    """Return what the first line says of doubt and warnings, as it may be all that is read: a session shows nothing else."""
    doubtful, warnings = 0 if plan.refusals else len(plan.doubtful), len(_warnings_besides_doubt(plan))
    parts = [f"{doubtful} doubtful"] * bool(doubtful) + [f"{warnings} warning{'s' * (warnings > 1)}"] * bool(warnings)
    return f"; {', '.join(parts)}" if parts else ""


def _values_compared(report: Report) -> bool:
    return any(check.name == VALUES_CHECK and check.passed for check in report.checks)


def counts(plan: Plan, fates: Mapping[str, Sequence[Step]]) -> dict[str, int]:
    """Return how many slots met each fate, and how many source tensors are used, unused and quietly unused."""
    found = {name: len(steps) for name, steps in fates.items()}
    relevant = sum(not one.quiet for one in plan.unused)
    return {
        **found,
        "slots": len(plan.steps),
        "partly": sum(step.known is not None for step in plan.steps),
        "unused": relevant,
        "quiet_unused": len(plan.unused) - relevant,
    }


def placed_counts(plan: Plan) -> tuple[int, int]:
    """Return how many tensors of the model are filled, and of how many; harmless buffers count on neither side."""
    relevant = [s for s in plan.steps if s.slot.persistent and not (s.quiet and s.action is Action.FRESH)]
    return sum(s.action is not Action.FRESH for s in relevant), len(relevant)


def _placed_words(plan: Plan) -> str:
    filled, total = placed_counts(plan)
    partly = sum(step.known is not None for step in plan.steps)
    some = f", {partly} of them in part" if partly else ""
    count = f"all {tensors(total)}" if filled == total else f"{grouped(filled)} of {tensors(total)}"
    if filled == total == 1:
        count, some = "the only tensor", ", in part" * partly
    return f"{count}{some}: {coverage_words(plan)}"


def _tone_of(plan: Plan) -> str:
    if plan.refusals or (plan.steps and plan.coverage.target_filled == 0):
        return "bad"
    return "care" if plan.doubtful or plan.warnings or plan.fresh else "good"


def _tensor_sections(plan: Plan, fates: dict[str, list[Step]], initialised: int) -> list[Section | None]:
    """Return the sections on slots and source tensors; harmless ones as one remark."""
    common_dtype = plan_sections.most_common_dtype(plan)
    unused = [one for one in plan.unused if not one.quiet]
    return [
        plan_sections.fresh_section(fates["fresh"], plan, common_dtype, initialised),
        plan_sections.unused_section(unused, plan, common_dtype),
        plan_sections.doubtful_section(fates["doubtful"], plan, common_dtype),
        plan_sections.adapted_section(fates["adapted"], plan, common_dtype),
        plan_sections.renamed_section(fates["renamed"]),
        plan_sections.likely_section(fates["copied"]),
        plan_sections.cast_section(plan),
        _harmless_section(len(fates["quiet"]), plan),
    ]


def _harmless_section(slots: int, plan: Plan) -> Section:
    """Return what is harmless: counters and the like, and second copies of what is used.

    Names of a tied tensor that hold different values are no copies; an objection tells of them.
    """
    quiet = [one for one in plan.unused if one.quiet]
    conflicting = {name for objection in plan.objections if objection.kind == "conflict" for name in objection.names}
    duplicates = [one.spec.name for one in quiet if one.why.rule in DUPLICATE_RULES]
    unused = len(quiet) - len(duplicates)
    kinds = (
        [f"{tensors(slots)} of the model {'keeps its value' if slots == 1 else 'keep their values'}"] if slots else []
    )
    kinds += [_not_needed(unused)] if unused else []
    remarks = [f"{', '.join(kinds)}: counters, indices and the like"] if kinds else []
    if copies := [name for name in duplicates if name not in conflicting]:
        like = "another that is used" if len(copies) == 1 else "others that are used"
        remarks.append(f"{_not_needed(len(copies))}: the same values as {like} ({listed(copies)})")
    return remark_section("harmless", remarks)


def _not_needed(count: int) -> str:
    return f"{tensors(count)} of the checkpoint {'is' if count == 1 else 'are'} not needed"


def _origin_words(plan: Plan) -> str:
    if not plan.origin:
        return ""
    facts = [printable(plan.format)] if plan.format else []
    facts += [f"network {printable(plan.network)}"] if plan.network else []
    return f"from {printable(plan.origin)}" + (f" ({', '.join(facts)})" if facts else "")


def _cost_words(report: Report) -> str:
    cost = report.cost
    spent = cost.plan_seconds + cost.apply_seconds
    if not spent and not cost.bytes_read:
        return ""
    undo = f", {size(cost.undo_bytes)} kept for undoing meanwhile" if cost.undo_bytes else ""
    return f"{seconds(spent)}, {size(cost.bytes_read)} read{undo}"


def _mapped_notes(mapped: Mapped | None) -> Sequence[str]:
    """Return what views of the file mean for who uses them."""
    if mapped is None:
        return ()
    own = ", ".join(f"{count} {reason}" for reason, count in sorted(mapped.owned.items()))
    others = [f"memory of their own: {own}"] if own else []
    if not mapped.slots:
        return ("no tensor is a view of the file", *others)
    when = "its pages were brought in" if mapped.prefaulted else "it is read when they are used"
    count = len(mapped.slots)
    what = f"{tensors(count)}, {size(mapped.nbytes)}, {'is a view' if count == 1 else 'are views'} of the file"
    return (f"{what}: {when}, and no value was looked at", MMAP_WARNING, *others)


def _memory_notes(plan: Plan) -> Sequence[str]:
    """Return what loading takes beside the model, where that is a lot."""
    need = plan.memory
    if need is None or need.total < NOTABLE_MEMORY:
        return ()
    shares = f"{size(need.kept)} of old values, {size(need.working)} for what is read and computed at a time"
    return (f"loading takes up to {size(need.total)} of memory beside the model: {shares}",)


def _check_words(check: Check) -> str:
    return f"{check.name}: {check.text}" if check.name != VALUES_CHECK else check.text
