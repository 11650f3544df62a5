"""Doubt settled by numbers: the plan is tried, corrected where the source's run says otherwise, and tried again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice, permutations

from torchgraft.core.errors import UsageError
from torchgraft.core.grounds import Ground
from torchgraft.core.plan import Certainty, Feed, Plan, Step, Unused, Why
from torchgraft.core.proof import Proof
from torchgraft.core.specs import Source
from torchgraft.verifying.divergence import ROUNDING, Matches
from torchgraft.verifying.outputs import TOLERANCES, coarsest_dtype, max_difference, pair_outputs
from torchgraft.verifying.settling.guide import Guidance, GuidedRecorder, Reading, ValueUses
from torchgraft.verifying.settling.proof import prove
from torchgraft.verifying.settling.trial import CachedSource, TemporaryWeights, Trial
from torchgraft.verifying.tracing import Run, record_run

__all__ = ["Trial", "prove", "settle"]

MOST_RUNS = 48
MOST_ORDERS = 6
MOST_IN_GROUP = 3
GUIDED_RUNS = 4


def settle(plan: Plan, source: Source, trial: Trial) -> Plan:
    """Return the plan, corrected by what runs of both models show; nothing is left changed.

    The target is filled by the plan and run on the first input. If it gives what the source gave, the plan stays as it is.
    Else it is run with each weight chosen by what the source does with the same values, and what several weights could do
    is tried in other orders, some tens of runs at most. The outcome must hold on all inputs.
    """
    with TemporaryWeights(trial.model, CachedSource(source)) as weights:
        search = _Search(plan, trial, weights)
        search.run()
        worst, reason = search.outcome.relative, search.reason
        for inputs, source_run in zip(trial.inputs[1:], trial.source_runs[1:], strict=True):
            with weights.interruptible():
                target_run = record_run(trial.model, inputs)
            relative = search.measure(source_run, target_run).relative
            if relative > worst:
                worst, reason = relative, search.reason
    passed = worst <= search.limit
    proof = Proof(
        inputs=len(trial.source_runs),
        relative=worst,
        tolerance=search.limit,
        passed=passed,
        reason="" if passed else reason,
    )
    if not passed and not search.improved:
        return replace(plan, proof=proof)
    follow_siblings(search.steps, plan)
    return _with_steps(plan, [search.steps[old.slot.name] for old in plan.steps], proof)


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a run ended: the greatest relative difference of outputs, and how many values the source's run has, too."""

    relative: float
    agreed: int

    def is_better_than(self, other: _Outcome) -> bool:
        return (self.relative < other.relative and self.agreed >= other.agreed) or self.agreed > other.agreed


class _Search:
    """The steps of a plan under trial; `run` leaves the best that was found in `steps`, and in the model."""

    def __init__(self, plan: Plan, trial: Trial, weights: TemporaryWeights) -> None:
        self.steps: dict[str, Step] = {step.slot.name: step for step in plan.steps}
        self.outcome = _Outcome(float("inf"), -1)
        self.improved = False
        self.reason = "" if trial.source_runs else "no input is known on which both can be run"
        dtype = coarsest_dtype(*(run.outputs for run in trial.source_runs))
        self.limit = TOLERANCES[dtype] if trial.tolerance is None else trial.tolerance
        self._rounding = ROUNDING[dtype]
        self._plan, self._trial, self._weights = plan, trial, weights
        self._shapes = {key: spec.shape for key, spec in plan.source_specs.items()}
        self._target_run: Run | None = None
        self._runs = 0

    @property
    def passed(self) -> bool:
        """Whether outputs agree."""
        return self.outcome.relative <= self.limit

    def run(self) -> None:
        """Try the plan; where outputs differ, choose weights by the source's run; then try other orders."""
        for step in self.steps.values():
            if step.feeds or step.ops:
                self._weights.fill(step)
        if not self._trial.source_runs:
            return
        first = self._try()
        choices: dict[int, list[Reading]] = {}
        source_uses = ValueUses(self._trial.source_runs[0].recording)
        for _ in range(GUIDED_RUNS):
            if self.passed:
                break
            guidance = self._run_guided(source_uses)
            choices = guidance.choices
            if not guidance.changed:
                break
        if not self.passed:
            self._try_orders(choices)
        self.improved = self.outcome.is_better_than(first)

    def measure(self, source: Run, target: Run) -> _Outcome:
        """Return how near a run of the target comes to one of the source; `reason` says why, where it can't be told."""
        matches = Matches(source.recording, target.recording, self._rounding)
        agreed = sum(n in matches.source_of for n, v in enumerate(target.recording.values) if v.op >= 0 and v.live)
        if target.recording.failure:
            self.reason = f"the model raised {target.recording.failure}"
            return _Outcome(float("inf"), agreed)
        try:
            pairs, _ = pair_outputs(source.outputs, target.outputs)
        except UsageError as error:
            self.reason = str(error)
            return _Outcome(float("inf"), agreed)
        self.reason = _shape_difference(source, target, pairs)
        return _Outcome(max(max_difference(source.outputs[s], target.outputs[t])[1] for s, t in pairs), agreed)

    def _try(self) -> _Outcome:
        """Run the model as it is filled now."""
        self._runs += 1
        with self._weights.interruptible():
            self._target_run = record_run(self._trial.model, self._trial.inputs[0])
        self.outcome = self.measure(self._trial.source_runs[0], self._target_run)
        return self.outcome

    def _run_guided(self, source_uses: ValueUses) -> Guidance:
        """Run the target with weights chosen on the way; keep what was chosen."""
        guidance = Guidance(
            source=self._trial.source_runs[0].recording,
            source_uses=source_uses,
            target_uses=ValueUses(self._target_run.recording) if self._target_run else None,
            steps=self.steps,
            keys=self._trial.keys,
            shapes=self._shapes,
            network=self._plan.network,
            rounding=self._rounding,
            weights=self._weights,
        )
        self._runs += 1
        with self._weights.interruptible():
            record_run(self._trial.model, self._trial.inputs[0], kind=partial(GuidedRecorder, guidance=guidance))
        self._put({name: self.steps[name] for name in guidance.changed})  # a run gives buffers back as they were
        self._try()
        return guidance

    def _try_orders(self, choices: Mapping[int, list[Reading]]) -> None:
        """Exchange weights that are alike, group by group, as long as that brings outputs nearer."""
        for group in self._exchangeable(choices):
            if self.passed or self._runs >= MOST_RUNS:
                return
            present = {name: self.steps[name] for name in group}
            best, kept = self.outcome, present
            for order in islice(permutations(group), 1, MOST_ORDERS):
                if self._runs >= MOST_RUNS:
                    break
                exchanged = zip(group, order, strict=True)
                self._put({name: _filled_like(present[name], present[other]) for name, other in exchanged})
                if self._try().is_better_than(best):
                    best, kept = self.outcome, {name: self.steps[name] for name in group}
                if self.passed:
                    return
            self._put(kept)
            self.outcome = best

    def _put(self, steps: Mapping[str, Step]) -> None:
        for name, step in steps.items():
            self.steps[name] = step
            self._weights.fill(step)

    def _exchangeable(self, choices: Mapping[int, list[Reading]]) -> Iterator[tuple[str, ...]]:
        """Yield groups of slots whose sources could be exchanged: chosen from the same candidates, or parts of one tensor."""
        by_readings: defaultdict[frozenset[int], list[str]] = defaultdict(list)
        for readings in choices.values():
            by_readings[frozenset(r.operation for r in readings)].append(next(iter(readings[0].steps)))
        yield from (tuple(names) for names in by_readings.values() if 1 < len(names) <= MOST_IN_GROUP)
        by_key: defaultdict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
        for name, step in self.steps.items():
            if len(step.feeds) == 1 and step.feeds[0].ops:
                by_key[step.feeds[0].key, step.slot.spec.shape].append(name)
        yield from (tuple(names) for names in by_key.values() if 1 < len(names) <= MOST_IN_GROUP)


def _shape_difference(source: Run, target: Run, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the first outputs whose shapes differ, in words; empty where none do."""
    for source_name, name in pairs:
        shape, source_shape = list(target.outputs[name].shape), list(source.outputs[source_name].shape)
        if shape != source_shape:
            words = "the output" if name == "output" else f"output {name}"
            return f"{words} is {shape}, that of the source {source_shape}"
    return ""


def _filled_like(step: Step, other: Step) -> Step:
    """Return how a slot is filled in the way of another."""
    why = Why(Ground.NUMBERS, f"fits as {step.slot.name}: the other order gave other outputs")
    return replace(other, slot=step.slot, why=why, certainty=Certainty.LIKELY, alternatives=())


def _with_steps(plan: Plan, steps: Sequence[Step], proof: Proof) -> Plan:
    """Return the plan with these steps, and the fates of source tensors that are used now, or are no more."""
    used, used_before = ({(f.network, f.key) for step in some for f in step.feeds} for some in (steps, plan.steps))
    unused = [u for u in plan.unused if (u.network, u.spec.name) not in used]
    why = Why(Ground.NUMBERS, "the run of the model has no place for it")
    unused += [
        Unused(spec=plan.source_specs[key], network=network, why=why)
        for network, key in sorted(used_before - used)
        if key in plan.source_specs
    ]
    return replace(plan, steps=tuple(steps), unused=tuple(unused), proof=proof)


def follow_siblings(steps: dict[str, Step], plan: Plan) -> None:
    """Let slots that numbers didn't move follow those beside them, where these all come from one other module."""
    moved: defaultdict[str, set[str]] = defaultdict(set)
    for step in steps.values():
        if step.why.rule == Ground.NUMBERS and len(step.feeds) == 1:
            moved[step.slot.owner].add(step.feeds[0].key.rpartition(".")[0])
    for name, step in list(steps.items()):
        homes = moved.get(step.slot.owner, set())
        if len(homes) != 1 or step.why.rule == Ground.NUMBERS or len(step.feeds) != 1 or step.feeds[0].ops or step.ops:
            continue
        home, role = next(iter(homes)), step.feeds[0].key.rpartition(".")[2]
        key = f"{home}.{role}" if home else role
        spec = plan.source_specs.get(key)
        if key == step.feeds[0].key or spec is None or spec.shape != step.slot.spec.shape:
            continue
        why = Why(Ground.NUMBERS, f"goes with the other tensors of {home}")
        steps[name] = replace(step, feeds=(Feed(key, (), step.feeds[0].network),), why=why, alternatives=())
