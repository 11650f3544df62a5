"""Doubt settled by numbers: the plan is tried, corrected where the source's run says otherwise, and tried again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import permutations

from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Certainty, Feed, Plan, Step, Unused, Why
from torchgraft.core.proof import Proof
from torchgraft.core.specs import Source
from torchgraft.verifying.divergence import FLOORS, Matches
from torchgraft.verifying.outputs import TOLERANCES, coarsest, distance, paired
from torchgraft.verifying.settling.guide import Guidance, Guide, Reading, Uses
from torchgraft.verifying.settling.proof import prove
from torchgraft.verifying.settling.trial import Cached, Hands, Trial
from torchgraft.verifying.tracing import Run, record_run

__all__ = ["Trial", "prove", "settle"]

MOST_RUNS = 48
MOST_ORDERS = 6
GUIDED_RUNS = 4


def settle(plan: Plan, source: Source, trial: Trial) -> Plan:
    """Return the plan, corrected by what runs of both models show; nothing is left changed.

    The target is filled by the plan and run on the first input. If it gives what the source gave, it stays as it is. Else it is run with each weight chosen by what the source does with the same values, and what several
    weights could do is tried in other orders, some tens of runs at most. The outcome must hold on all inputs.
    """
    with Hands(trial.model, Cached(source)) as hands:
        search = Search(plan, trial, hands)
        search.run()
        worst = search.outcome.relative
        for mine, theirs in zip(trial.inputs[1:], trial.sources[1:], strict=True):
            with hands.interruptible():
                again = record_run(trial.model, mine)
            worst = max(worst, search.measure(theirs, again).relative)
    proof = Proof(
        inputs=len(trial.sources),
        relative=worst,
        tolerance=search.limit,
        passed=worst <= search.limit,
        reason="" if worst <= search.limit else search.reason,
    )
    return _concluded(plan, search, proof)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the greatest relative difference of outputs, and how far it agreed with the source's."""

    relative: float
    agreed: int

    def better(self, other: Outcome) -> bool:
        """Whether this is nearer to the source than `other`."""
        return (self.relative < other.relative and self.agreed >= other.agreed) or self.agreed > other.agreed


class Search:
    """The steps of a plan under trial; `run` leaves the best that was found, in the model, too."""

    def __init__(self, plan: Plan, trial: Trial, hands: Hands) -> None:
        self.steps: dict[str, Step] = {step.slot.name: step for step in plan.steps}
        self.target: Run | None = None
        self.reason = "" if trial.sources else "no input is known on which both can be run"
        self._plan, self._trial, self._hands = plan, trial, hands
        kind = coarsest(*(run.outputs for run in trial.sources))
        self._floor = FLOORS[kind]
        self.limit = TOLERANCES[kind] if trial.tolerance is None else trial.tolerance
        self._shapes = {key: spec.shape for key, spec in plan.source_specs.items()}
        self.outcome = Outcome(float("inf"), -1)
        self.improved = False
        self._runs = 0

    @property
    def _source(self) -> Run:
        return self._trial.sources[0]

    @cached_property
    def _uses(self) -> Uses:
        return Uses(self._source.recording)

    @property
    def proved(self) -> bool:
        """Whether outputs agree."""
        return self.outcome.relative <= self.limit

    def run(self) -> None:
        """Try the plan; where outputs differ, choose weights by the source's run; then try other orders."""
        for step in self.steps.values():
            if step.feeds or step.ops:
                self._hands.fill(step)
        if not self._trial.sources:
            return
        first = self._try()
        choices: dict[int, list[Reading]] = {}
        for _ in range(GUIDED_RUNS):
            if self.proved:
                break
            guidance = self._guided()
            choices = guidance.choices
            if not guidance.changed:
                break
        if not self.proved:
            self._try_orders(choices)
        self.improved = self.outcome.better(first)

    def measure(self, source: Run, target: Run) -> Outcome:
        """Return how near a run of the target comes to one of the source."""
        matches = Matches(source.recording, target.recording, self._floor)
        agreed = sum(n in matches.found for n, v in enumerate(target.recording.values) if v.op >= 0 and v.live)
        if target.recording.failure:
            self.reason = f"the model raised {target.recording.failure}"
            return Outcome(float("inf"), agreed)
        try:
            pairs, _ = paired(source.outputs, target.outputs)
        except UsageError as error:
            self.reason = str(error)
            return Outcome(float("inf"), agreed)
        self.reason = _shapes_apart(source, target, pairs)
        return Outcome(max(distance(source.outputs[s], target.outputs[t])[1] for s, t in pairs), agreed)

    def _try(self) -> Outcome:
        """Run the model as it is filled now."""
        self._runs += 1
        with self._hands.interruptible():
            self.target = record_run(self._trial.model, self._trial.inputs[0])
        self.outcome = self.measure(self._source, self.target)
        return self.outcome

    def _guided(self) -> Guidance:
        """Run the target with weights chosen on the way; keep what was chosen."""
        guidance = Guidance(
            source=self._source.recording,
            uses=self._uses,
            steps=self.steps,
            keys=self._trial.keys,
            target_uses=Uses(self.target.recording) if self.target else None,
            shapes=self._shapes,
            network=self._plan.network,
            floor=self._floor,
            hands=self._hands,
        )
        self._runs += 1
        with self._hands.interruptible():
            self.target = record_run(self._trial.model, self._trial.inputs[0], kind=partial(Guide, guidance=guidance))
        self._put({name: self.steps[name] for name in guidance.changed})  # a run gives buffers back as they were
        self._try()
        return guidance

    def _try_orders(self, choices: Mapping[int, list[Reading]]) -> None:
        """Exchange weights that could be meant as well, group by group, as long as that brings outputs nearer."""
        for group in self._groups(choices):
            if self.proved or self._runs >= MOST_RUNS:
                return
            present = {name: self.steps[name] for name in group}
            best, kept = self.outcome, present
            for order in list(permutations(group))[1:MOST_ORDERS]:
                if self._runs >= MOST_RUNS:
                    break
                self._put(
                    {name: _moved(present[other], present[name]) for name, other in zip(group, order, strict=True)}
                )
                if self._try().better(best):
                    best, kept = self.outcome, {name: self.steps[name] for name in group}
                if self.proved:
                    return
            self._put(kept)
            self.outcome = best

    def _put(self, steps: Mapping[str, Step]) -> None:
        for name, step in steps.items():
            self.steps[name] = step
            self._hands.fill(step)

    def _groups(self, choices: Mapping[int, list[Reading]]) -> Iterator[tuple[str, ...]]:
        """Yield names of slots whose sources could be exchanged: those that were chosen among, and parts of one tensor."""
        by_reading: dict[frozenset[int], list[str]] = {}
        for readings in choices.values():
            by_reading.setdefault(frozenset(r.operation for r in readings), []).append(next(iter(readings[0].steps)))
        yield from (tuple(names) for names in by_reading.values() if 1 < len(names) <= 3)
        by_key: dict[tuple[str, tuple[int, ...]], list[str]] = {}
        for name, step in self.steps.items():
            if len(step.feeds) == 1 and step.feeds[0].ops:
                by_key.setdefault((step.feeds[0].key, step.slot.spec.shape), []).append(name)
        yield from (tuple(names) for names in by_key.values() if 1 < len(names) <= 3)


def _shapes_apart(source: Run, target: Run, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the first outputs whose shapes differ, in words; empty where none do."""
    for theirs, mine in pairs:
        shapes = [list(run.outputs[name].shape) for run, name in ((target, mine), (source, theirs))]
        if shapes[0] != shapes[1]:
            named = "the output" if mine == "output" else f"output {mine}"
            return f"{named} is {shapes[0]}, that of the source {shapes[1]}"
    return ""


def _moved(step: Step, to: Step) -> Step:
    """Return how a slot is filled in the way of another."""
    why = Why("numbers", f"fits as {to.slot.name}: the other order gave other outputs")
    return replace(step, slot=to.slot, why=why, certainty=Certainty.LIKELY, alternatives=())


def _concluded(plan: Plan, search: Search, proof: Proof) -> Plan:
    """Return the plan with the steps that were found, how the runs came out, and the fates of sources that changed."""
    if not proof.passed and not search.improved:
        return replace(plan, proof=proof)
    follow_siblings(search.steps, plan)
    steps = [search.steps[old.slot.name] for old in plan.steps]
    feeding, before = ({(f.network, f.key) for step in some for f in step.feeds} for some in (steps, plan.steps))
    unused = [u for u in plan.unused if (u.network, u.spec.name) not in feeding]
    why = Why("numbers", "the run of the model has no place for it")
    unused += [
        Unused(spec=plan.source_specs[key], network=network, why=why)
        for network, key in sorted(before - feeding) if key in plan.source_specs
    ]  # fmt: skip
    return replace(plan, steps=tuple(steps), unused=tuple(unused), proof=proof)


def follow_siblings(steps: dict[str, Step], plan: Plan) -> None:
    """Let slots that numbers didn't move come from the module that all moved slots beside them come from."""
    moved: defaultdict[str, set[str]] = defaultdict(set)
    for step in steps.values():
        if step.why.rule == "numbers" and len(step.feeds) == 1:
            moved[step.slot.owner].add(step.feeds[0].key.rpartition(".")[0])
    for name, step in list(steps.items()):
        homes = moved.get(step.slot.owner, set())
        if len(homes) != 1 or step.why.rule == "numbers" or len(step.feeds) != 1 or step.feeds[0].ops or step.ops:
            continue
        home, role = next(iter(homes)), step.feeds[0].key.rpartition(".")[2]
        key = f"{home}.{role}" if home else role
        spec = plan.source_specs.get(key)
        if key == step.feeds[0].key or spec is None or spec.shape != step.slot.spec.shape:
            continue
        why = Why("numbers", f"goes with the other tensors of {home}")
        steps[name] = replace(step, feeds=(Feed(key, (), step.feeds[0].network),), why=why, alternatives=())
