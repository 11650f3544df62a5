"""Two models on the same inputs: do they give the same, where do they part, and why?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from torchgraft.core.errors import UsageError
from torchgraft.core.places import places
from torchgraft.core.plan import Action
from torchgraft.core.verification import Cause, Divergence, Site, Verification
from torchgraft.verifying.causes import facts_at, signs_at
from torchgraft.verifying.comparing import TOLERANCES, coarsest, compared, paired
from torchgraft.verifying.divergence import FLOORS, Matches
from torchgraft.verifying.planned import Planned
from torchgraft.verifying.proving.agreeing import Measure
from torchgraft.verifying.proving.verified import verified_parts
from torchgraft.verifying.rotary import with_bases
from torchgraft.verifying.settings import compare_settings

if TYPE_CHECKING:
    from torch import nn

    from torchgraft.core.plan import Plan, Step
    from torchgraft.core.recording import Recording
    from torchgraft.core.verification import OutputComparison, SettingDifference
    from torchgraft.verifying.divergence import Parting
    from torchgraft.verifying.settings import ModulePair
    from torchgraft.verifying.tracing import Run

MOST_CAUSES = 8
# Settings of a module that change the order of what is in it.
_ORDERS = frozenset({"normalize_before"})
# Up to this many times the rounding of one operation, outputs of two implementations are taken as equal.
ROUNDING = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be verified: two models, the plan between them, and inputs for each side.

    `pairs` are (input of the source, input of the target). Without a source, its runs are `recorded`, one for each pair. `tolerance` is None for that of the outputs' type.
    `evaluating`: whether both run in evaluation mode, or as they are. `stated`: the caller vouches for the plan.
    """

    model: nn.Module
    source: nn.Module | None
    plan: Plan
    pairs: tuple[tuple[Any, Any], ...]
    recorded: tuple[Run, ...] = ()
    tolerance: float | None = None
    evaluating: bool = True
    stated: bool = True


class Compared(NamedTuple):
    """The settings in which modules differ, and the pairs of modules that were compared (target's, source's)."""

    settings: tuple[SettingDifference, ...]
    pairs: tuple[ModulePair, ...]


def verify_models(asked: Question) -> Verification:
    """Run both models on all inputs, compare the outputs, and look for the first difference where they differ.

    What a run was stays in memory as outputs and fingerprints only. Then it is found out which of the plan's tensors are proved.

    Raises:
        UsageError: the source fails on an input, or nothing can be compared.
    """
    from torchgraft.verifying.tracing import record_run

    start = time.perf_counter()
    alike = Compared(*compare_settings(asked.model, asked.source, asked.plan)) if asked.source else Compared((), ())
    outputs: list[OutputComparison] = []
    notes: list[str] = []
    last: tuple[Matches, tuple[int, int]] | None = None
    divergence: Divergence | None = None
    causes: list[Cause] = []
    limit = 0.0
    ran: list[tuple[Run, Run]] = []
    for number, (theirs, mine) in enumerate(asked.pairs):
        source = _source_run(asked, number, theirs)
        target = record_run(asked.model, mine, evaluating=asked.evaluating)
        kind = coarsest(source.outputs, target.outputs)
        ran.append((source, target))
        limit = max(limit, TOLERANCES[kind] if asked.tolerance is None else asked.tolerance)
        found, remarks = _outputs(source, target, limit)
        outputs.extend(found)
        notes.extend(n for n in remarks if n not in notes)
        matches = Matches(source.recording, target.recording, FLOORS[kind])
        last = (matches, (len(source.recording.operations), len(target.recording.operations)))
        if target.recording.failure or not all(one.relative <= ROUNDING * FLOORS[kind] for one in found):
            divergence, causes = _explained(asked, matches, number, alike)
            if not all(one.passed for one in found) or not found:
                break
    if last and any(not isfinite(one.relative) for one in outputs):
        notes.extend(_agreeing_note(last[0]))
    notes.extend(_mode_notes(asked))
    notes.extend(_plan_notes(asked))
    sums = last[1] if last else (0, 0)
    passed = bool(outputs) and all(one.passed for one in outputs)
    measure = Measure(FLOORS[coarsest(*(run.outputs for pair in ran for run in pair))], limit)
    parts = verified_parts(asked, ran, measure, passed=passed)
    return Verification(
        outputs=tuple(outputs),
        inputs=len(asked.pairs),
        tolerance=limit,
        divergence=divergence,
        causes=tuple(causes),
        settings=alike.settings,
        operations=sums,
        matched=_matched(last[0]) if last else 0,
        parts=tuple(parts.parts),
        unproved=tuple(sorted(parts.left)),
        notes=tuple(notes),
        seconds=time.perf_counter() - start,
    )


def _source_run(asked: Question, number: int, given: Any) -> Run:
    from torchgraft.verifying.tracing import record_run

    if asked.source is None:
        run = asked.recorded[number]
    else:
        run = record_run(asked.source, given, evaluating=asked.evaluating)
    if run.recording.failure:
        raise UsageError(f"the source's model fails on input {number}: {run.recording.failure}")
    return run


def _outputs(source: Run, target: Run, limit: float) -> tuple[list[OutputComparison], tuple[str, ...]]:
    if target.recording.failure:
        return [], ()
    pairs, remarks = paired(source.outputs, target.outputs)
    return [compared((s, t), source.outputs[s], target.outputs[t], limit) for s, t in pairs], remarks


def _explained(
    asked: Question, matches: Matches, number: int, compared: Compared
) -> tuple[Divergence | None, list[Cause]]:
    """Return where the runs part, and the likely causes, the surest first."""
    planned = _planned(asked)
    wrong = {step.slot.name: step for step in planned.differing()}
    first = (
        _first_use(matches.target, {n for step in wrong.values() for n in step.slot.names}) if asked.stated else None
    )
    parting = matches.parting(dict(compared.pairs), first)
    causes: list[Cause] = []
    if failure := matches.target.failure:
        causes.append(Cause(kind="failure", text=f"the model raised {failure}", remedy="see where the two part before"))
    if parting is None:
        return None, [*causes, *map(planned.cause, list(wrong.values())[:MOST_CAUSES])]
    sites = (_site(matches.source, parting.source), _site(matches.target, parting.target))
    fed = set(sites[1].weights if sites[1] else ())
    modes, facts = _split(facts_at(matches, parting))
    causes += modes
    causes += [planned.cause(step) for step in wrong.values() if fed.intersection(step.slot.names)]
    causes += [planned.cause(step) for step in _unfilled(asked, fed)]
    here, around = _from_settings(parting, matches, compared.settings)
    causes += here
    causes += [fact for fact in facts if not _is_said(fact, here)]
    if not causes:
        causes += [planned.cause(step) for step in list(wrong.values())[:MOST_CAUSES]]
        causes += signs_at(matches, parting)
    causes += around
    divergence = Divergence(source=sites[0], target=sites[1], input=number)
    named = [with_bases(cause, planned.target, planned.source) for cause in dict.fromkeys(causes)]
    return divergence, named[:MOST_CAUSES]


def _is_said(fact: Cause, settings: list[Cause]) -> bool:
    """Whether a setting says what an operation shows: the same two values, or another activation."""
    return any(
        (fact.target, fact.source) == (c.target, c.source) or fact.kind == c.kind == "activation" for c in settings
    )


def _first_use(recording: Recording, names: set[str]) -> int | None:
    """Return the first operation on activations that one of these weights feeds."""
    for number, op in enumerate(recording.operations):
        values = [recording.values[n] for n in op.inputs]
        live = any(recording.values[n].live for n in op.outputs)
        if live and any(names.intersection(value.weights) for value in values):
            return number
    return None


def _split(causes: list[Cause]) -> tuple[list[Cause], list[Cause]]:
    """Return causes of mode, and the others: in another mode, statistics differ as a matter of course."""
    return [c for c in causes if c.kind == "mode"], [c for c in causes if c.kind != "mode"]


def _unfilled(asked: Question, fed: set[str]) -> list[Step]:
    steps = dict.fromkeys(asked.plan.by_name[name] for name in sorted(fed) if name in asked.plan.by_name)
    return [step for step in steps if step.action is Action.FRESH and step.slot.persistent and not step.quiet]


def _planned(asked: Question) -> Planned:
    mine, theirs = ({p.name: p.tensor for p in places(m)} if m else {} for m in (asked.model, asked.source))
    return Planned(asked.plan, mine, theirs)


def _from_settings(
    parting: Parting, matches: Matches, settings: tuple[SettingDifference, ...]
) -> tuple[list[Cause], list[Cause]]:
    """Return settings that differ in the very module where the runs part, and in those around it and inside it."""
    if parting.target is not None:
        at = matches.target.operations[parting.target].module
    else:
        at = matches.source.operations[parting.source or 0].module
    here: list[Cause] = []
    around: list[Cause] = []
    for one in settings:
        if not one.matters:
            continue
        cause, where = _setting_cause(one), one.module if parting.target is not None else one.source_module
        if where == at:
            here.append(cause)
        elif not where or at.startswith(where + "."):
            (here if one.name in _ORDERS else around).append(cause)
        elif at and where.startswith(at + "."):
            around.append(cause)
    return here, around


def _setting_cause(one: SettingDifference) -> Cause:
    kinds = {
        "heads": "heads",
        "activation": "activation",
        "negative_slope": "activation",
        "approximate": "activation",
        "scale": "scale",
        "normalize_before": "structure",
        "rotary base": "rotary",
        "padding": "padding",
        "padding_mode": "padding",
    }
    return Cause(
        kind=kinds.get(one.name, "setting"),
        text=f"{one.module or 'the model itself'}: {one.name} is {one.target}, in the source {one.source}",
        remedy=f"build the model with {one.name} {one.source}",
        module=one.module,
        source_module=one.source_module,
        target=one.target,
        source=one.source,
    )


def _site(recording: Recording, number: int | None) -> Site | None:
    if number is None:
        return None
    op = recording.operations[number]
    weights = tuple(dict.fromkeys(name for n in op.inputs for name in recording.values[n].weights))
    return Site(
        number=number,
        total=len(recording.operations),
        name=op.name,
        module=op.module,
        kind=op.kind,
        weights=weights,
        shapes=op.shapes,
        settings=op.settings,
    )


def _matched(matches: Matches) -> int:
    return sum(any(n in matches.found for n in operation.outputs) for operation in matches.target.operations)


def _agreeing_note(matches: Matches) -> list[str]:
    """Return a remark on how far runs agree whose outputs can't be compared entry by entry."""
    for operation in reversed(matches.target.operations):
        for number in operation.outputs:
            value = matches.target.values[number]
            if number in matches.found and value.live and value.fingerprint and not value.fingerprint.is_plain:
                there = matches.source.values[matches.found[number][0]].op
                other = matches.source.operations[there].module if there >= 0 else "its input"
                names = [name or "the model itself" for name in (operation.module, other)]
                return [f"the last result that both runs have comes out of {names[0]}, in the source out of {names[1]}"]
    return []


def _plan_notes(asked: Question) -> list[str]:
    """Return a remark where tensors of the plan are not in the models, so that nothing can be said of their values."""
    if asked.source is None:
        return []
    mine, theirs = ({p.name for p in places(model)} for model in (asked.model, asked.source))
    lost = [s.slot.name for s in asked.plan.steps if s.slot.name not in mine]
    lost += [feed.key for step in asked.plan.steps for feed in step.feeds if feed.key not in theirs]
    if not lost:
        return []
    more = f" and {len(lost) - 4} more" if len(lost) > 4 else ""
    return [f"the plan names tensors that the models don't have, values not compared: {', '.join(lost[:4])}{more}"]


def _mode_notes(asked: Question) -> list[str]:
    """Return a remark for each side that was in training mode."""
    if not asked.evaluating:
        return []
    out = []
    for side, model in (("the model", asked.model), ("the source's model", asked.source)):
        if model is not None and any(module.training for module in model.modules()):
            out.append(f"{side} is in training mode; both were compared in evaluation mode")
    return out
