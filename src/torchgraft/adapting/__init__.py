"""From claims to a plan: ops that make shapes fit, one step per slot, one fate per source tensor, all objections."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torchgraft.adapting.branches import branch_steps, told_of_branches
from torchgraft.adapting.compose import compose, gather_facts
from torchgraft.adapting.copies import copied
from torchgraft.adapting.fit import KERNEL_RULES
from torchgraft.adapting.lora import lora_steps
from torchgraft.adapting.objections import object_to
from torchgraft.adapting.options import NEW_INDICES, AxisNames, Options
from torchgraft.adapting.ranks import over_ranks
from torchgraft.adapting.remains import fresh_step, unused_sources
from torchgraft.adapting.remarks import remarks
from torchgraft.adapting.starts import start_steps
from torchgraft.adapting.views import View, views_of
from torchgraft.adapting.widening import widened
from torchgraft.core.errors import UsageError
from torchgraft.core.match import Matching, Ranks
from torchgraft.core.plan import Certainty, Plan, Step, Unused, Why
from torchgraft.core.policy import Policy
from torchgraft.core.specs import Target, TensorSpec

__all__ = [
    "KERNEL_RULES",
    "NEW_INDICES",
    "AxisNames",
    "Brief",
    "Options",
    "Wishes",
    "adapt",
    "copied",
    "decided",
    "object_to",
    "requested_steps",
    "views_of",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the caller decided beforehand: which slots stay fresh or start at zero, and what becomes of doubt."""

    is_fresh: Callable[[str], bool]
    is_zero: Callable[[str], bool]
    on_doubt: str = "refuse"
    accept: str = "likely"


@dataclass(frozen=True, slots=True, kw_only=True)
class Brief:
    """All that a plan depends on besides the matching.

    `network` is the container path of the source. `settled` are the steps of slots that were decided ahead of matching;
    `ranks` are there when the checkpoint is spread over tensor-parallel ranks, `views` are those that it was
    matched under.
    """

    options: Options
    policy: Policy
    wishes: Wishes
    network: str = ""
    settled: Mapping[str, Step] = field(default_factory=dict)
    ranks: Ranks | None = None
    views: Sequence[View] = ()


def requested_steps(
    specs: Mapping[str, TensorSpec], target: Target, options: Options, network: str, metadata: Mapping[str, object]
) -> dict[str, Step]:
    """Return the steps that the caller asked for by kind, ahead of any matching: adapters, fused branches, starts.

    `metadata` are the facts beside the tensors, of which the configuration of adapters is used.

    Raises:
        UsageError: what was asked for can't be done with this file.
    """
    options.check(target.slots)
    steps: dict[str, Step] = {}
    if options.merge_lora:
        scale = None if options.merge_lora is True else float(options.merge_lora)
        steps |= lora_steps(specs, target, network, scale, metadata.get("adapter_config"))
    if options.fuse_branches:
        fused = branch_steps(specs, target.slots, network)
        if not fused:
            raise UsageError(
                "fuse_branches was asked for, but the checkpoint has no parallel branches for a convolution that it lacks"
            )
        steps |= fused
    if options.init:
        steps |= start_steps(target.slots, options.init)
    return steps


def adapt(matching: Matching, target: Target, specs: Mapping[str, TensorSpec], brief: Brief) -> Plan:
    """Return the plan that the matching comes to. Nothing is read and nothing is touched."""
    leaves = (
        [*(m.source for m in matching.matches), *matching.free_sources],
        [*(m.target for m in matching.matches), *matching.free_targets],
    )
    wishes, views = brief.wishes, brief.views
    shown, seen = (views[-1].shown, views[-1].target) if views else (specs, target)
    facts = gather_facts(matching.matches, leaves, shown, seen, brief.options, brief.network)
    draft = compose(matching.matches, facts)
    drafted: Mapping[str, Step] = draft.steps
    for view in reversed(views):
        drafted = view.own_steps(drafted)
    drafted = {**drafted, **brief.settled}
    decided = {name: _undoubted(step, wishes) for name, step in drafted.items()}
    steps = tuple(decided.get(slot.name) or fresh_step(slot, wishes.is_fresh, wishes.is_zero) for slot in target.slots)
    if matching.blocked:
        steps = tuple(_undoubted(_blocked(step, matching.blocked), wishes) for step in steps)
    steps = over_ranks(steps, brief.ranks) if brief.ranks else steps
    steps = tuple(widened(step, specs) for step in steps)
    steps = told_of_branches(steps, specs, brief.network)
    unused = unused_sources(steps, shown, draft.rejected, matching.derived, brief.network)
    for view in reversed(views):
        unused = view.own_unused(unused, steps, brief.network)
    plan = Plan(
        steps=steps, unused=unused, notes=matching.notes, network=brief.network, source_specs=specs, policy=brief.policy
    )
    return replace(plan, objections=object_to(plan), notes=(*plan.notes, *remarks(plan)))


def decided(plan: Plan, wishes: Wishes) -> Plan:
    """Return a plan, made with all doubt taken, under the caller's view of doubt; its objections are made anew."""
    made = replace(plan, steps=tuple(_undoubted(step, wishes) for step in plan.steps), objections=())
    made = replace(made, unused=_with_skipped(plan, made))
    return replace(made, objections=object_to(made))


def _with_skipped(before: Plan, after: Plan) -> tuple[Unused, ...]:
    """Return the unused sources, with those whose slots are now left fresh, and second names of such."""
    why = Why("doubt", "the tensor that it would fill is left fresh for doubt")
    old, new = ({(f.network, f.key) for step in plan.steps for f in step.feeds} for plan in (before, after))
    lost = [
        Unused(spec=after.source_specs[key], network=network, why=why)
        for network, key in sorted(old - new) if key in after.source_specs
    ]  # fmt: skip
    kept = [
        replace(u, why=why) if u.why.rule == "alias" and not after.by_name[u.spec.name].feeds else u
        for u in after.unused
    ]
    return (*kept, *lost)


def _blocked(step: Step, blocked: Mapping[str, str]) -> Step:
    """Return the step in doubt where it stays fresh only because the file can't be read as it is."""
    name = next((name for name in step.slot.names if name in blocked), None)
    if name is None or step.why.rule != "no counterpart":
        return step
    return replace(step, why=Why("doubt", blocked[name]), certainty=Certainty.DOUBT)


def _undoubted(step: Step, wishes: Wishes) -> Step:
    """Return the step under the caller's view of doubt: what isn't accepted is doubt, and may be left fresh."""
    if step.certainty is Certainty.LIKELY and wishes.accept == "certain":
        step = replace(step, certainty=Certainty.DOUBT)
    if step.certainty is not Certainty.DOUBT or wishes.on_doubt != "skip":
        return step
    why = Why("doubt", "left fresh for doubt: " + step.why.text, step.why.evidence)
    return Step(slot=step.slot, why=why, certainty=Certainty.CERTAIN, alternatives=step.alternatives)
