"""From claims to a plan: one step for each slot, one fate for each source tensor, and all objections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from torchgraft.adapting.branches import branch_steps, with_branch_hint
from torchgraft.adapting.compose import compose
from torchgraft.adapting.context import PlanContext
from torchgraft.adapting.facts import gather_facts
from torchgraft.adapting.lora import Names, Scales, lora_steps, with_reason_of_training
from torchgraft.adapting.norm_pairs import stated_eps
from torchgraft.adapting.objections import objections_to
from torchgraft.adapting.options import Options
from torchgraft.adapting.ranks import over_ranks
from torchgraft.adapting.remarks import remarks
from torchgraft.adapting.rewrites import doubt_blocked, widened, with_doubt_decided
from torchgraft.adapting.starts import init_steps
from torchgraft.adapting.unmatched import fresh_step, unused_sources, without_dead_statistics
from torchgraft.core.errors import UsageError
from torchgraft.core.match import Matching
from torchgraft.core.plan import Action, Plan, Step
from torchgraft.core.specs import Network, Target, TensorSpec


def requested_steps(
    network: Network, target: Target, options: Options, metadata: Mapping[str, object], names: Names
) -> dict[str, Step]:
    """Return the steps that the caller asked for by kind, ahead of any matching: adapters, fused branches, starts.

    `metadata` are the facts beside the tensors, of which the configuration of adapters is used; `names` those that the caller
    gives to a key.

    Raises:
        UsageError: what was asked for can't be done with this file.
    """
    options.check(target.slots)
    steps: dict[str, Step] = {}
    if options.merge_lora:
        steps |= lora_steps(network, target, Scales.said(options.merge_lora, metadata), names)
    if options.fuse_branches is not False:
        fused = branch_steps(network.specs, target.slots, network.path, stated_eps(options.fuse_branches))
        if not fused:
            raise UsageError(
                "fuse_branches was asked for, but the checkpoint has no parallel branches for a convolution that it lacks; "
                "batch norms behind single layers are folded by fold_norms=True"
            )
        steps |= fused
    if options.init:
        steps |= init_steps(target.slots, options.init)
    return steps


def adapt(matching: Matching, target: Target, specs: Mapping[str, TensorSpec], context: PlanContext) -> Plan:
    """Return the plan that the matching comes to, without what is to be said of it as a whole (`weighed`)."""
    views = context.views
    shown, seen = (views[-1].shown, views[-1].target) if views else (specs, target)
    draft = compose(matching.matches, gather_facts(matching, shown, seen, context))
    steps = _one_each(draft.steps, matching, target, context)
    steps = tuple([step if step.action is Action.COPY else widened(step, specs) for step in steps])
    steps = with_branch_hint(steps, specs, context.network)
    unused = unused_sources(steps, shown, draft.rejected, matching.derived, context.network, context.second)
    for view in reversed(views):
        unused = view.original_unused(unused, steps, context.network)
    unused = with_reason_of_training(without_dead_statistics(unused, target), steps)
    return Plan(
        steps=steps,
        unused=unused,
        notes=matching.notes,
        network=context.network,
        source_specs=specs,
        policy=context.policy,
    )


def _one_each(
    drafted: Mapping[str, Step], matching: Matching, target: Target, context: PlanContext
) -> tuple[Step, ...]:
    """Return the one step of each slot, under the caller's view of doubt: requested, drafted, or fresh."""
    preferences = context.preferences
    for view in reversed(context.views):
        drafted = view.original_steps(drafted)
    decided = {**drafted, **context.requested}
    if preferences.changes_doubt:
        decided = {name: with_doubt_decided(step, preferences) for name, step in decided.items()}
    steps = tuple(
        [
            decided.get(slot.spec.name) or fresh_step(slot, preferences.is_fresh, preferences.is_zero)
            for slot in target.slots
        ]
    )
    if matching.blocked:
        steps = tuple(with_doubt_decided(doubt_blocked(step, matching.blocked), preferences) for step in steps)
    if context.ranks:
        steps = tuple(with_doubt_decided(step, preferences) for step in over_ranks(steps, context.ranks))
    return steps


def weighed(plan: Plan, is_picked: Callable[[str], bool]) -> Plan:
    """Return the plan with everything that speaks against it, and remarks.

    `is_picked` tells lists of which layers were picked.
    """
    objections = (*plan.objections, *objections_to(plan))
    return replace(plan, objections=objections, notes=(*plan.notes, *remarks(plan, is_picked)))
