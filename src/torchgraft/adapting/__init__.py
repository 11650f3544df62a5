"""From claims to a plan: ops that make shapes fit, one step per slot, one fate per source tensor, all objections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torchgraft.adapting.compose import compose, gather_facts
from torchgraft.adapting.objections import object_to
from torchgraft.adapting.options import ClassRows, Options
from torchgraft.adapting.remains import fresh_steps, unused_sources
from torchgraft.core.plan import Certainty, Plan, Step, Why

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torchgraft.core.match import Matching
    from torchgraft.core.policy import Policy
    from torchgraft.core.specs import Target, TensorSpec

__all__ = ["ClassRows", "Options", "Wishes", "adapt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the caller decided beforehand: which slots stay fresh or start at zero, and what becomes of doubt."""

    is_fresh: Callable[[str], bool]
    is_zero: Callable[[str], bool]
    on_doubt: str = "refuse"


def adapt(
    matching: Matching, target: Target, specs: Mapping[str, TensorSpec], options: Options, policy: Policy,
    wishes: Wishes, network: str = "",
) -> Plan:  # fmt: skip
    """Return the plan that the matching comes to under the policy. Nothing is read and nothing is touched."""
    slots = {slot.name: slot for slot in target.slots}
    leaves = (
        [*(m.source for m in matching.matches), *matching.free_sources],
        [*(m.target for m in matching.matches), *matching.free_targets],
    )
    facts = gather_facts(matching.matches, leaves, specs, slots, options, network)
    draft = compose(matching.matches, facts)
    decided = {name: _undoubted(step, wishes.on_doubt) for name, step in draft.steps.items()}
    steps = tuple(
        decided[slot.name] if slot.name in decided else fresh_steps(slot, wishes.is_fresh, wishes.is_zero, specs)
        for slot in target.slots
    )
    unused = unused_sources(steps, specs, draft.rejected, matching, network)
    plan = Plan(steps=steps, unused=unused, notes=matching.notes, network=network, source_specs=specs, policy=policy)
    return replace(plan, objections=object_to(plan))


def _undoubted(step: Step, on_doubt: str) -> Step:
    if step.certainty is not Certainty.DOUBT or on_doubt != "skip":
        return step
    why = Why("doubt", "left fresh for doubt: " + step.why.text, step.why.evidence)
    return Step(slot=step.slot, why=why, certainty=Certainty.CERTAIN, alternatives=step.alternatives)
