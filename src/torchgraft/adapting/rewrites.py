"""Steps changed after they were composed: computed in a wider type, in doubt or left fresh for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torchgraft.adapting.objections import objections_to
from torchgraft.core.dtypes import DType
from torchgraft.core.grounds import Ground
from torchgraft.core.plan import Certainty, Doubt, Feed, Plan, Step, Unused, Why
from torchgraft.core.specs import TensorSpec
from torchgraft.ops import Cast

NARROW = frozenset({DType.F16, DType.BF16})


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What the caller decided beforehand: which slots stay fresh or start at zero, and what becomes of doubt."""

    is_fresh: Callable[[str], bool]
    is_zero: Callable[[str], bool]
    on_doubt: str = "refuse"
    accept: str = "likely"

    @property
    def changes_doubt(self) -> bool:
        """Whether a step may become another one for doubt."""
        return self.accept == "certain" or self.on_doubt == "skip"


def widened(step: Step, specs: Mapping[str, TensorSpec]) -> Step:
    """Return the step with 16-bit inputs cast to the model's wider type ahead of ops that round; else the step itself.

    A mean of bfloat16 values, say, is a number that bfloat16 seldom has; a float32 model can hold it.
    """
    if not any(op.rounds for op in step.ops) and not any(op.rounds for feed in step.feeds for op in feed.ops):
        return step
    wide = step.slot.spec.dtype

    def cast(feed: Feed) -> Feed:
        spec = specs.get(feed.key)
        if spec is None or spec.dtype not in NARROW or spec.dtype is wide or not wide.holds(spec.dtype):
            return feed
        return replace(feed, ops=(Cast(wide.label), *feed.ops))

    return replace(step, feeds=tuple(map(cast, step.feeds)))


def with_preferences(plan: Plan, preferences: Preferences) -> Plan:
    """Return a plan, made with all doubt taken, under the caller's view of doubt; its objections are made anew."""
    made = replace(plan, steps=tuple(with_doubt_decided(step, preferences) for step in plan.steps), objections=())
    made = replace(made, unused=_with_skipped(plan, made))
    return replace(made, objections=objections_to(made))


def _with_skipped(before: Plan, after: Plan) -> tuple[Unused, ...]:
    """Return the unused sources, with those whose slots stay fresh now, and with their second names."""
    why = Why(Ground.DOUBT, "the tensor that it would fill is left fresh for doubt")
    old, new = ({(f.network, f.key) for step in plan.steps for f in step.feeds} for plan in (before, after))
    lost = [
        Unused(spec=after.source_specs[key], network=network, why=why)
        for network, key in sorted(old - new) if key in after.source_specs
    ]  # fmt: skip
    gone = {key for _, key in old - new}
    kept = [replace(u, why=why, same_as="") if u.same_as in gone else u for u in after.unused]
    return (*kept, *lost)


def doubt_blocked(step: Step, blocked: Mapping[str, str]) -> Step:
    """Return the step in doubt where it stays fresh only because the file can't be read as it is."""
    name = next((name for name in step.slot.names if name in blocked), None)
    if name is None or step.why.rule != Ground.NO_COUNTERPART:
        return step
    return replace(step, why=Why(Ground.DOUBT, blocked[name]), certainty=Certainty.DOUBT)


def with_doubt_decided(step: Step, preferences: Preferences) -> Step:
    """Return the step under the caller's view of doubt: what isn't accepted is doubt, and may be left fresh."""
    if step.certainty is Certainty.LIKELY and preferences.accept == "certain":
        why = (
            step.why if step.why.doubt else step.why.in_doubt(Doubt("accept", f"likely, not certain: {step.why.text}"))
        )
        step = replace(step, why=why, certainty=Certainty.DOUBT)
    if step.certainty is not Certainty.DOUBT or preferences.on_doubt != "skip":
        return step
    why = Why(Ground.DOUBT, "left fresh for doubt: " + (step.why.doubt or step.why.text), step.why.evidence)
    return Step(slot=step.slot, why=why, certainty=Certainty.CERTAIN, alternatives=step.alternatives)
