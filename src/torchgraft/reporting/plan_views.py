"""The views of plans and reports: the verdict first, then what deserves a word, quiet things as a count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchgraft.core.errors import printable
from torchgraft.core.figures import tensors
from torchgraft.core.listing import listed
from torchgraft.core.plan import Action, Objection, Plan, Step
from torchgraft.core.results.report import Check, Mapped, Report
from torchgraft.reporting import sections as parts
from torchgraft.reporting.formatting import coverage_words, seconds, size
from torchgraft.reporting.view import Section, View, remark_section, told

VALUES = "values"
# Rules by which a tensor of the checkpoint is not used since a used one has its values: both were compared.
REPEATS = ("alias", "echo")
LARGE = 64 << 20
STAY = (
    "the file must stay as it is while the model lives: a change in place changes the model, a shorter file ends the "
    "process (another file in its place does neither); what is written to a view is copied first, and stays here"
)


def plan_view(plan: Plan) -> View:
    """Return the view of a plan: what would happen."""
    fates = parts.by_fate(plan)
    sections = told(
        parts.objection_section("refused", "bad", plan.refusals),
        *_tensors(plan, fates, 0),
        parts.objection_section("warnings", "care", _untold(plan)),
        remark_section("notes", [*plan.notes, *_memory(plan)]),
    )
    return View(
        verdict=plan_verdict(plan),
        tone=_tone(plan),
        origin=_origin(plan),
        sections=sections,
        counts=counts(plan, fates),
    )


def report_view(report: Report) -> View:
    """Return the view of a report: what happened. Only what was compared after writing is called loaded."""
    plan = report.plan
    fates = parts.by_fate(plan)
    failed = [check for check in report.checks if not check.passed]
    compared = _compared(report)
    sections = told(
        remark_section("failed", map(_check_words, failed), "bad"),
        parts.objection_section("refused", "bad", plan.refusals),
        *_tensors(plan, fates, len(report.initialised)),
        parts.objection_section("warnings", "care", _untold(plan)),
        remark_section("mapped", _mapped(report.mapped)),
        remark_section("notes", plan.notes),
    )
    if sections or not compared:
        passed = [_check_words(check) for check in report.checks if check.passed]
        sections = told(*sections, remark_section("checks", passed))
    return View(
        verdict=report_verdict(report),
        tone=_tone(plan) if compared and not failed else "bad",
        origin="; ".join(text for text in (_origin(plan), _cost(report)) if text),
        sections=sections,
        counts=counts(plan, fates),
    )


def _untold(plan: Plan) -> Sequence[Objection]:
    """Return the warnings that no section shows: what was taken in doubt has a section of its own."""
    return [warning for warning in plan.warnings if warning.kind != "doubt"]


def plan_verdict(plan: Plan) -> str:
    """Return the first line of a plan."""
    refused = len(plan.refusals)
    head = f"refused for {refused} reason{'s' if refused > 1 else ''}; " if refused else ""
    return f"{head}would load {_placed(plan)}"


def report_verdict(report: Report) -> str:
    """Return the first line of a report."""
    failed = [printable(check.name) for check in report.checks if not check.passed]
    if failed:
        return f"FAILED: {', '.join(failed)} did not hold; wrote {_placed(report.plan)}"
    if not _compared(report):
        return f"not compared after writing; wrote {_placed(report.plan)}"
    return f"loaded {_placed(report.plan)}"


def _compared(report: Report) -> bool:
    return any(check.name == VALUES and check.passed for check in report.checks)


def counts(plan: Plan, fates: Mapping[str, Sequence[Step]]) -> dict[str, int]:
    """Return how many slots met each fate, and how many source tensors are used, unused and quietly unused."""
    found = {name: len(steps) for name, steps in fates.items()}
    loud = sum(not one.quiet for one in plan.unused)
    return {
        **found,
        "slots": len(plan.steps),
        "partly": sum(step.known is not None for step in plan.steps),
        "unused": loud,
        "quiet_unused": len(plan.unused) - loud,
    }


def placed_counts(plan: Plan) -> tuple[int, int]:
    """Return how many tensors of the model are filled, and of how many; harmless buffers count on neither side."""
    loud = [s for s in plan.steps if s.slot.persistent and not (s.quiet and s.action is Action.FRESH)]
    return sum(s.action is not Action.FRESH for s in loud), len(loud)


def _placed(plan: Plan) -> str:
    filled, total = placed_counts(plan)
    partly = sum(step.known is not None for step in plan.steps)
    some = f", {partly} of them in part" if partly else ""
    count = f"all {tensors(total)}" if filled == total else f"{filled} of {tensors(total)}"
    return f"{count}{some}: {coverage_words(plan)}"


def _tone(plan: Plan) -> str:
    if plan.refusals or (plan.steps and plan.coverage.target_filled == 0):
        return "bad"
    return "care" if plan.doubtful or plan.warnings or plan.fresh else "good"


def _tensors(plan: Plan, fates: dict[str, list[Step]], initialised: int) -> list[Section | None]:
    """Return the sections on slots and source tensors; harmless ones as one remark."""
    usual = parts.usual_dtype(plan)
    unused = [one for one in plan.unused if not one.quiet]
    return [
        parts.fresh_section(fates["fresh"], plan, usual, initialised),
        parts.unused_section(unused, plan, usual),
        parts.doubtful_section(fates["doubtful"], plan, usual),
        parts.adapted_section(fates["adapted"], plan, usual),
        parts.renamed_section(fates["renamed"]),
        parts.likely_section(fates["copied"]),
        parts.cast_section(plan),
        _quiet(len(fates["quiet"]), plan),
    ]


def _quiet(slots: int, plan: Plan) -> Section:
    """Return what is harmless: counters and the like, and second copies of what is used.

    Names of a tied tensor that hold different values are no copies; an objection tells of them.
    """
    quiet = [one for one in plan.unused if one.quiet]
    torn = {name for objection in plan.objections if objection.kind == "conflict" for name in objection.names}
    second = [one.spec.name for one in quiet if one.why.rule in REPEATS]
    unused = len(quiet) - len(second)
    said = (
        [f"{tensors(slots)} of the model {'keeps its value' if slots == 1 else 'keep their values'}"] if slots else []
    )
    said += [_not_needed(unused)] if unused else []
    told = [f"{', '.join(said)}: counters, indices and the like"] if said else []
    if copies := [name for name in second if name not in torn]:
        like = "another that is used" if len(copies) == 1 else "others that are used"
        told.append(f"{_not_needed(len(copies))}: the same values as {like} ({listed(copies)})")
    return remark_section("harmless", told)


def _not_needed(count: int) -> str:
    return f"{tensors(count)} of the checkpoint {'is' if count == 1 else 'are'} not needed"


def _origin(plan: Plan) -> str:
    if not plan.origin:
        return ""
    facts = [printable(plan.format)] if plan.format else []
    facts += [f"network {printable(plan.network)}"] if plan.network else []
    return f"from {printable(plan.origin)}" + (f" ({', '.join(facts)})" if facts else "")


def _cost(report: Report) -> str:
    cost = report.cost
    spent = cost.plan_seconds + cost.apply_seconds
    if not spent and not cost.bytes_read:
        return ""
    undo = f", {size(cost.undo_bytes)} kept for undoing meanwhile" if cost.undo_bytes else ""
    return f"{seconds(spent)}, {size(cost.bytes_read)} read{undo}"


def _mapped(mapped: Mapped | None) -> Sequence[str]:
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
    return (f"{what}: {when}, and no value was looked at", STAY, *others)


def _memory(plan: Plan) -> Sequence[str]:
    """Return what loading takes beside the model, where that is worth a word."""
    need = plan.memory
    if need is None or need.total < LARGE:
        return ()
    shares = f"{size(need.kept)} of old values, {size(need.working)} for what is read and computed at a time"
    return (f"loading takes up to {size(need.total)} of memory beside the model: {shares}",)


def _check_words(check: Check) -> str:
    return f"{check.name}: {check.text}" if check.name != VALUES else check.text
