"""Steps of a plan, marked with what proves them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torchgraft.core.plan import Certainty, Plan, Step, Why
from torchgraft.core.proof import Means, Part
from torchgraft.core.specs import Source
from torchgraft.verifying.divergence import FLOORS
from torchgraft.verifying.outputs import coarsest
from torchgraft.verifying.proving import Parts
from torchgraft.verifying.proving.agreements import Measure, Runs, Side
from torchgraft.verifying.settling.trial import Cached, Hands, Trial


def prove(plan: Plan, source: Source, trial: Trial) -> Plan:
    """Return the plan with what is proved of each tensor that it places, and by which means; nothing is left changed.

    First outputs of the wholes, where all agree, then values inside of both, then modules whose tensors come from one
    module of the source on their own, then the tensors by themselves. Tensors of what agrees where it stands are
    certain; of what agrees on its own, those whose every other reading lies in the same module.
    """
    proof = plan.proof
    if proof is None:
        return plan
    kind = coarsest(*(run.outputs for run in trial.sources))
    cached = Cached(source)
    with Hands(trial.model, cached) as hands:
        for step in plan.steps:
            if step.feeds or step.ops:
                hands.fill(step)
        parts = Parts(
            model=trial.model,
            origin=trial.origin,
            steps=plan.by_slot,
            keys=trial.keys,
            shapes={key: spec.shape for key, spec in plan.source_specs.items()},
            read=cached,
            measure=Measure(FLOORS[kind], proof.tolerance),
        )
        with hands.interruptible():
            _run_through(parts, trial, passed=proof.passed)
    shown = {name: part for part in parts.parts for name in part.slots}
    steps = tuple(_marked(step, shown.get(step.slot.name), trial.keys, proof.headline()) for step in plan.steps)
    found = replace(proof, parts=tuple(parts.parts), unproved=tuple(sorted(parts.left)))
    return replace(plan, steps=steps, proof=found)


def _run_through(parts: Parts, trial: Trial, *, passed: bool) -> None:
    """Prove as much as can be by each means, the strongest first."""
    sides: list[Side | None] = [None] * len(trial.inputs)
    if trial.origin is not None:
        sides = [Side(trial.origin, given) for given in trial.source_inputs]
    ran = [
        Runs.compared(side, Side(trial.model, mine), (theirs, None), parts.measure)
        for side, mine, theirs in zip(sides, trial.inputs, trial.sources, strict=True)
    ]
    parts.prove(ran, trial.source_inputs, passed=passed)


def _marked(step: Step, part: Part | None, keys: Mapping[str, str], headline: str) -> Step:
    """Return a step with what a part shows of it."""
    if part is None:
        return step
    words = headline if part.means is Means.OUTPUTS else part.words()
    standing = part.means in (Means.OUTPUTS, Means.PLACE)
    settled = part.means is Means.APART and step.alternatives and _settled(step, part, keys)
    return _sure(step, words) if standing or settled else _said(step, words)


def _settled(step: Step, part: Part, keys: Mapping[str, str]) -> bool:
    """Whether all readings of a step lie in the module of the source that was run on its own."""
    head = f"{part.root}." if part.root else ""
    inside = {key for name, key in keys.items() if name.startswith(head)}
    return all(set(other.keys) <= inside for other in step.alternatives)


def _sure(step: Step, words: str) -> Step:
    """Return a step that numbers have proved, in these words; where other rows stay as they are, only with the words.

    Rows that nothing fills took no part, or nobody knows what they should be: whether they may stay is as open as before.
    """
    said = _said(step, words)
    return (
        said
        if step.known is not None
        else replace(said, certainty=Certainty.CERTAIN, alternatives=(), why=replace(said.why, doubt=""))
    )


def _said(step: Step, words: str) -> Step:
    return replace(step, why=Why(step.why.rule, step.why.text, (*step.why.evidence, words), step.why.doubt))
