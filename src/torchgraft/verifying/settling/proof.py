"""What is proved of each step of a plan, by the source's model and the one that the plan fills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torchgraft.core.plan import NO_DOUBT, Certainty, Plan, Step
from torchgraft.core.proof import Means, Part
from torchgraft.core.specs import Source
from torchgraft.verifying.divergence import ROUNDING
from torchgraft.verifying.outputs import coarsest_dtype
from torchgraft.verifying.proving import ProofByParts
from torchgraft.verifying.proving.agreements import Tolerance
from torchgraft.verifying.settling.trial import CachedSource, TemporaryWeights, Trial


def prove(plan: Plan, source: Source, trial: Trial) -> Plan:
    """Return the plan with what is proved of each tensor that it places, and by which means; nothing is left changed.

    First outputs of the wholes, where all agree, then values inside of both, then modules whose tensors come from one
    module of the source on their own, then the tensors by themselves. Tensors of what agrees where it stands are
    certain; of what agrees on its own, those whose every other reading lies in the same module.
    """
    proof = plan.proof
    if proof is None:
        return plan
    cached = CachedSource(source)
    with TemporaryWeights(trial.model, cached) as weights:
        for step in plan.steps:
            if step.feeds or step.ops:
                weights.fill(step)
        parts = ProofByParts(
            model=trial.model,
            source_model=trial.source_model,
            steps=plan.by_slot,
            keys=trial.keys,
            shapes={key: spec.shape for key, spec in plan.source_specs.items()},
            read=cached,
            tolerance=Tolerance(ROUNDING[coarsest_dtype(*(run.outputs for run in trial.source_runs))], proof.tolerance),
        )
        input_pairs = list(zip(trial.source_inputs or [None] * len(trial.inputs), trial.inputs, strict=True))
        with weights.interruptible():
            parts.prove(input_pairs, [(run, None) for run in trial.source_runs], outputs_agree=proof.passed)
    part_of = {name: part for part in parts.parts for name in part.slots}
    steps = tuple(_with_part(step, part_of.get(step.slot.name), trial.keys, proof.headline()) for step in plan.steps)
    reason = "; ".join(filter(None, [proof.reason, parts.order_note]))
    found = replace(proof, parts=tuple(parts.parts), unproved=tuple(sorted(parts.unproved)), reason=reason)
    return replace(plan, steps=steps, proof=found)


def _with_part(step: Step, part: Part | None, keys: Mapping[str, str], headline: str) -> Step:
    """Return a step with what a part shows of it in its evidence, and certain where that proves it.

    Where other rows of the slot stay as they are, it doesn't become certain: they took no part, or nobody knows what they
    should be, so that whether they may stay is as open as before.
    """
    if part is None:
        return step
    words = headline if part.means is Means.OUTPUTS else part.words()
    why = replace(step.why, evidence=(*step.why.evidence, words))
    in_place = part.means in (Means.OUTPUTS, Means.PLACE)
    proved = in_place or (part.means is Means.APART and _all_readings_inside(step, part, keys))
    if not proved or step.known is not None:
        return replace(step, why=why)
    return replace(step, certainty=Certainty.CERTAIN, alternatives=(), why=why.in_doubt(NO_DOUBT))


def _all_readings_inside(step: Step, part: Part, keys: Mapping[str, str]) -> bool:
    """Whether there are other readings of a step, all in the module of the source that was run on its own."""
    prefix = f"{part.root}." if part.root else ""
    inside = {key for name, key in keys.items() if name.startswith(prefix)}
    return bool(step.alternatives) and all(set(other.keys) <= inside for other in step.alternatives)
