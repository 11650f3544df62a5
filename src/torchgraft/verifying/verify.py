"""Two models on the same inputs: do they give the same outputs, where do their runs part, and why?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite

from torchgraft.core.errors import UsageError
from torchgraft.core.formatting import listed
from torchgraft.core.results.verification import Cause, Divergence, OutputComparison, Verification
from torchgraft.verifying.divergence import ROUNDING, Matches, is_distinctive
from torchgraft.verifying.explaining import explain
from torchgraft.verifying.explaining.planned_values import PlannedValues
from torchgraft.verifying.explaining.settings import ComparedSettings, compare_settings
from torchgraft.verifying.outputs import TOLERANCES, coarsest_dtype, compare_output, faint_difference, pair_outputs
from torchgraft.verifying.proving import ProofByParts
from torchgraft.verifying.proving.agreements import Tolerance
from torchgraft.verifying.request import VerifyRequest
from torchgraft.verifying.tracing import Run, record_run

# Up to this many times the rounding of one operation, outputs of two implementations are taken as equal.
ROUNDING_STEPS = 10


def verify_models(request: VerifyRequest) -> Verification:
    """Run both models on all inputs, compare outputs, explain the first difference, and prove the plan's tensors.

    Stops at the first input on which outputs differ. Of a run only outputs and fingerprints stay in memory.

    Raises:
        UsageError: the source fails on an input, or nothing can be compared.
    """
    start = time.perf_counter()
    settings = ComparedSettings()
    if request.source is not None:  # which may be empty, as a list
        settings = compare_settings(request.model, request.source, request.plan)
    planned = PlannedValues(request.plan, request.model, request.source)
    comparisons, divergence, causes = _compare_all(request, planned, settings)
    passed = all(one.passed for one in comparisons)
    last = comparisons[-1]
    matches = last.matches
    proof = _prove(request, planned, [(one.source, one.target) for one in comparisons], last.limit, passed=passed)
    return Verification(
        outputs=tuple(output for one in comparisons for output in one.outputs),
        inputs=len(request.input_pairs),
        tolerance=last.limit,
        finished=not any(one.target.recording.failure for one in comparisons),
        divergence=divergence,
        causes=tuple(causes),
        settings=settings.differences,
        operations=(len(matches.source.operations), len(matches.target.operations)),
        matched=_matched_operations(matches),
        parts=tuple(proof.parts),
        unproved=tuple(sorted(proof.unproved)),
        notes=(
            *_notes(request, planned, comparisons),
            *filter(None, [proof.order_note]),
            *_deviating_weight_notes(planned, None if passed else causes),
        ),
        seconds=time.perf_counter() - start,
    )


def _compare_all(
    request: VerifyRequest, planned: PlannedValues, settings: ComparedSettings
) -> tuple[Sequence[_Comparison], Divergence | None, Sequence[Cause]]:
    """Return what the runs on each input gave, up to the first on which outputs differ; where the last ones part, and why."""
    comparisons: list[_Comparison] = []
    divergence: Divergence | None = None
    causes: Sequence[Cause] = ()
    limit = 0.0
    for number in range(len(request.input_pairs)):
        one = _compare_runs(request, number, limit)
        if not one.passed:
            one = replace(one, matches=one.matches.until_they_part(dict(settings.pairs)))
        comparisons.append(one)
        limit = one.limit
        if not (one.passed and one.equal_to_rounding):
            divergence, causes = explain(request, one.matches, number, planned=planned, settings=settings)
            if not one.passed:
                break
    return comparisons, divergence, causes


def _notes(request: VerifyRequest, planned: PlannedValues, comparisons: Sequence[_Comparison]) -> list[str]:
    """Return notes on the runs and on the plan, besides whether outputs agree."""
    unlike = any(not isfinite(output.relative) for one in comparisons for output in one.outputs)
    return [
        *dict.fromkeys(note for one in comparisons for note in one.notes),
        *(_last_match_note(comparisons[-1].matches) if unlike else ()),
        *_training_mode_notes(request),
        *(_missing_tensor_notes(planned) if request.source is not None else ()),
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comparison:
    """Runs of both models on one input. `limit` is the greatest relative difference that passes."""

    source: Run
    target: Run
    matches: Matches
    outputs: tuple[OutputComparison, ...]
    notes: tuple[str, ...]
    rounding: float
    limit: float

    @property
    def passed(self) -> bool:
        return bool(self.outputs) and all(output.passed for output in self.outputs)

    @property
    def equal_to_rounding(self) -> bool:
        close = all(output.relative <= ROUNDING_STEPS * self.rounding for output in self.outputs)
        return close and not self.target.recording.failure


def _compare_runs(request: VerifyRequest, number: int, least_limit: float) -> _Comparison:
    """Run both models on input `number`, and compare outputs and what happened inside."""
    source_input, target_input = request.input_pairs[number]
    if request.source is None:
        source = request.recorded_runs[number]
    else:
        source = record_run(request.source, source_input, eval_mode=request.eval_mode)
    if source.recording.failure:
        raise UsageError(f"the source's model fails on input {number}: {source.recording.failure}")
    target = record_run(request.model, target_input, eval_mode=request.eval_mode)
    dtype = coarsest_dtype(source.outputs, target.outputs)
    limit = max(least_limit, TOLERANCES[dtype] if request.tolerance is None else request.tolerance)
    pairs, notes = ((), ()) if target.recording.failure else pair_outputs(source.outputs, target.outputs)
    outputs = tuple(compare_output((s, t), source.outputs[s], target.outputs[t], limit) for s, t in pairs)
    faint = [
        faint_difference(one.target, source.outputs[one.source], target.outputs[one.target], limit)
        for one in outputs
        if one.passed
    ]
    return _Comparison(
        source=source,
        target=target,
        matches=Matches(source.recording, target.recording, ROUNDING[dtype]),
        outputs=outputs,
        notes=(*notes, *filter(None, faint)),
        rounding=ROUNDING[dtype],
        limit=limit,
    )


def _prove(
    request: VerifyRequest, planned: PlannedValues, runs: Sequence[tuple[Run, Run]], limit: float, *, passed: bool
) -> ProofByParts:
    """Return what these runs (of the source, of the target) prove of each tensor, and what more runs prove.

    Of models that ran in another mode than evaluation only the runs themselves are looked at.
    """
    tensors = planned.source
    proof = ProofByParts(
        model=request.model,
        source_model=request.source if request.eval_mode else None,
        steps=request.plan.by_slot,
        keys={name: name for name in tensors},
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        read=lambda feed: tensors[feed.key],
        tolerance=Tolerance(ROUNDING[coarsest_dtype(*(run.outputs for pair in runs for run in pair))], limit),
        deviating=frozenset(step.slot.name for step in planned.deviating_steps),
    )
    if proof.unproved:
        proof.prove(request.input_pairs, runs, outputs_agree=passed)
    return proof


def _matched_operations(matches: Matches) -> int:
    return sum(any(n in matches.source_of for n in operation.outputs) for operation in matches.target.operations)


def _last_match_note(matches: Matches) -> list[str]:
    """Return a note on the last result that both runs have, for outputs that can't be compared entry by entry."""
    for operation in reversed(matches.target.operations):
        for number in operation.outputs:
            if number in matches.source_of and is_distinctive(matches.target.values[number]):
                source_operation = matches.source.values[matches.source_of[number][0]].op
                other = matches.source.operations[source_operation].module if source_operation >= 0 else "its input"
                ours, theirs = (name or "the model itself" for name in (operation.module, other))
                there = f", in the source out of {theirs}" if theirs != ours else ""
                return [f"the last result that both runs have comes out of {ours}{there}"]
    return []


def _missing_tensor_notes(planned: PlannedValues) -> list[str]:
    """Return a note where tensors of the plan are not in the models, so that their values are unknown."""
    missing = [step.slot.name for step in planned.plan.steps if step.slot.name not in planned.target]
    missing += [feed.key for step in planned.plan.steps for feed in step.feeds if feed.key not in planned.source]
    if not missing:
        return []
    return [f"the plan names tensors that the models don't have, values not compared: {listed(missing, 4)}"]


def _deviating_weight_notes(planned: PlannedValues, causes: Sequence[Cause] | None) -> list[str]:
    """Return a note on weights that hold something else than planned, beside those that are among the causes.

    There are no `causes` (None) where outputs agree all the same.
    """
    told = {cause.target for cause in causes or ()}
    steps = [s for s in planned.deviating_steps if s.slot.spec.dtype.is_float and s.slot.name not in told]
    if not steps:
        return []
    cause = planned.cause(steps[0])
    more = f", and {len(steps) - 1} more hold others than planned" if len(steps) > 1 else ""
    return [f"{'outputs agree, and ' if causes is None else ''}{cause.text}{more}"]


def _training_mode_notes(request: VerifyRequest) -> list[str]:
    """Return a note on models that were in training mode and ran in evaluation mode."""
    if not request.eval_mode:
        return []
    sides = (("the model", request.model), ("the source's model", request.source))
    training = [
        side for side, model in sides if model is not None and any(module.training for module in model.modules())
    ]
    if not training:
        return []
    said = "both models are" if len(training) > 1 else f"{training[0]} is"
    return [f"{said} in training mode; compared in evaluation mode"]
