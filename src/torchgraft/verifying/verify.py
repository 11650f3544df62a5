"""Two models on the same inputs: do they give the same, where do they part, and why?"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from torchgraft.core.errors import UsageError
from torchgraft.core.places import places
from torchgraft.core.results.verification import Cause, Divergence, OutputComparison, Verification
from torchgraft.verifying.arguments import Question
from torchgraft.verifying.divergence import FLOORS, Matches
from torchgraft.verifying.explaining import explained
from torchgraft.verifying.explaining.planned_values import Planned
from torchgraft.verifying.explaining.settings import Compared, compare_settings
from torchgraft.verifying.outputs import TOLERANCES, coarsest, compared, paired
from torchgraft.verifying.proving import Parts
from torchgraft.verifying.proving.agreements import Measure, Runs, Side
from torchgraft.verifying.tracing import Run

# Up to this many times the rounding of one operation, outputs of two implementations are taken as equal.
ROUNDING = 10


def verify_models(asked: Question) -> Verification:
    """Run both models on all inputs, compare the outputs, and look for the first difference where they differ.

    What a run was stays in memory as outputs and fingerprints only. Then it is found out which of the plan's tensors are
    proved.

    Raises:
        UsageError: the source fails on an input, or nothing can be compared.
    """
    start = time.perf_counter()
    seen = _Seen(asked)
    for number in range(len(asked.pairs)):
        if not seen.agrees_on(number):
            break
    matches = seen.matches
    passed = bool(seen.outputs) and all(one.passed for one in seen.outputs)
    measure = Measure(FLOORS[coarsest(*(run.outputs for pair in seen.ran for run in pair))], seen.limit)
    parts = verified_parts(asked, seen.ran, measure, passed=passed)
    return Verification(
        outputs=tuple(seen.outputs),
        inputs=len(asked.pairs),
        tolerance=seen.limit,
        divergence=seen.divergence,
        causes=tuple(seen.causes),
        settings=seen.alike.settings,
        operations=(len(matches.source.operations), len(matches.target.operations)) if matches else (0, 0),
        matched=_matched(matches) if matches else 0,
        parts=tuple(parts.parts),
        unproved=tuple(sorted(parts.left)),
        notes=(
            *seen.notes,
            *seen.agreeing_notes(),
            *_mode_notes(asked),
            *_plan_notes(asked),
            *(_value_notes(asked, parts.others) if passed else ()),
        ),
        seconds=time.perf_counter() - start,
    )


@dataclass(slots=True)
class _Seen:
    """What the runs have shown so far. `matches` are those of the last pair of runs."""

    asked: Question
    alike: Compared = field(init=False)
    outputs: list[OutputComparison] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    ran: list[tuple[Run, Run]] = field(default_factory=list)
    matches: Matches | None = None
    divergence: Divergence | None = None
    causes: list[Cause] = field(default_factory=list)
    limit: float = 0.0

    def __post_init__(self) -> None:
        asked = self.asked
        self.alike = compare_settings(asked.model, asked.source, asked.plan) if asked.source else Compared()

    def agrees_on(self, number: int) -> bool:
        """Run both models on input `number`, and return whether the outputs agree; if not, it is found out why."""
        from torchgraft.verifying.tracing import record_run

        theirs, mine = self.asked.pairs[number]
        source = _source_run(self.asked, number, theirs)
        target = record_run(self.asked.model, mine, evaluating=self.asked.evaluating)
        kind = coarsest(source.outputs, target.outputs)
        self.ran.append((source, target))
        self.limit = max(self.limit, TOLERANCES[kind] if self.asked.tolerance is None else self.asked.tolerance)
        found, remarks = _outputs(source, target, self.limit)
        self.outputs.extend(found)
        self.notes.extend(n for n in remarks if n not in self.notes)
        self.matches = Matches(source.recording, target.recording, FLOORS[kind])
        if not target.recording.failure and all(one.relative <= ROUNDING * FLOORS[kind] for one in found):
            return True
        self.divergence, self.causes = explained(self.asked, self.matches, number, self.alike)
        return bool(found) and all(one.passed for one in found)

    def agreeing_notes(self) -> list[str]:
        """Return a remark on how far runs agree whose outputs can't be compared entry by entry."""
        if self.matches and any(not isfinite(one.relative) for one in self.outputs):
            return _agreeing_notes(self.matches)
        return []


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


def _matched(matches: Matches) -> int:
    return sum(any(n in matches.found for n in operation.outputs) for operation in matches.target.operations)


def _agreeing_notes(matches: Matches) -> list[str]:
    """Return a remark on the last result that both runs have."""
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


def _value_notes(asked: Question, others: Collection[str]) -> list[str]:
    """Return a remark on weights that hold something else than planned, where outputs agree all the same."""
    planned = Planned(asked.plan, asked.model, asked.source)
    steps = [step for step in asked.plan.steps if step.slot.name in others and step.slot.spec.dtype.is_float]
    if not steps:
        return []
    more = f", and {len(steps) - 1} more hold others than planned" if len(steps) > 1 else ""
    return [f"outputs agree, and {planned.cause(steps[0]).text}{more}"]


def _mode_notes(asked: Question) -> list[str]:
    """Return a remark for each side that was in training mode."""
    if not asked.evaluating:
        return []
    out = []
    for side, model in (("the model", asked.model), ("the source's model", asked.source)):
        if model is not None and any(module.training for module in model.modules()):
            out.append(f"{side} is in training mode; both were compared in evaluation mode")
    return out


def verified_parts(asked: Question, ran: Sequence[tuple[Run, Run]], measure: Measure, *, passed: bool) -> Parts:
    """Return what is proved by these runs (of the source, of the target) on the first inputs, and what more runs show.

    Of models that ran in another mode than evaluation only the runs themselves are looked at.
    """
    tensors = {place.name: place.tensor for place in places(asked.source)} if asked.source else {}
    others = Planned(asked.plan, asked.model, asked.source).differing()
    parts = Parts(
        model=asked.model,
        origin=asked.source if asked.evaluating else None,
        steps=asked.plan.by_slot,
        keys={name: name for name in tensors},
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        read=lambda feed: tensors[feed.key],
        measure=measure,
        others=frozenset(step.slot.name for step in others),
    )
    if not parts.left:
        return parts
    runs = [
        Runs.compared(
            None if parts.origin is None else Side(parts.origin, theirs), Side(asked.model, mine), pair, measure
        )
        for (theirs, mine), pair in zip(asked.pairs, ran, strict=False)
    ]
    parts.prove(runs, [theirs for theirs, _ in asked.pairs], passed=passed)
    return parts
