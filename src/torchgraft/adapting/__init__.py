"""From claims to a plan: ops that make shapes fit, one step per slot, one fate per source tensor, all objections."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torchgraft.adapting.branches import branch_steps
from torchgraft.adapting.compose import compose, gather_facts
from torchgraft.adapting.folding_norms import Folding, fold_norms, unfold_steps, unfold_unused
from torchgraft.adapting.lora import lora_steps
from torchgraft.adapting.objections import object_to
from torchgraft.adapting.options import ClassRows, Options
from torchgraft.adapting.ranks import over_ranks
from torchgraft.adapting.remains import fresh_step, unused_sources
from torchgraft.adapting.starts import start_steps
from torchgraft.core.plan import Certainty, Plan, Step, Why

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torchgraft.core.match import Matching, Ranks
    from torchgraft.core.policy import Policy
    from torchgraft.core.specs import Target, TensorSpec

__all__ = ["Brief", "ClassRows", "Options", "Wishes", "adapt", "requested_folding", "requested_steps"]


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
    `ranks` are there when the checkpoint is spread over tensor-parallel ranks, `folding` when norms were folded.
    """

    options: Options
    policy: Policy
    wishes: Wishes
    network: str = ""
    settled: Mapping[str, Step] = field(default_factory=dict)
    ranks: Ranks | None = None
    folding: Folding | None = None


def requested_steps(specs: Mapping[str, TensorSpec], target: Target, options: Options, network: str) -> dict[str, Step]:
    """Return the steps that the caller asked for by kind, ahead of any matching: adapters, fused branches, starts.

    Raises:
        UsageError: what was asked for can't be done with this file.
    """
    steps: dict[str, Step] = {}
    if options.merge_lora:
        scale = None if options.merge_lora is True else float(options.merge_lora)
        steps |= lora_steps(specs, target.slots, network, scale)
    if options.fuse_branches:
        steps |= branch_steps(specs, target.slots, network)
    if options.init:
        steps |= start_steps(target.slots, options.init)
    return steps


def requested_folding(specs: Mapping[str, TensorSpec], target: Target, options: Options) -> Folding | None:
    """Return the file with its batch norms folded, if the caller asked for that.

    Raises:
        UsageError: there is nothing to fold.
    """
    if options.fold_norms is False:
        return None
    return fold_norms(specs, target.slots, None if options.fold_norms is True else float(options.fold_norms))


def adapt(matching: Matching, target: Target, specs: Mapping[str, TensorSpec], brief: Brief) -> Plan:
    """Return the plan that the matching comes to. Nothing is read and nothing is touched."""
    leaves = (
        [*(m.source for m in matching.matches), *matching.free_sources],
        [*(m.target for m in matching.matches), *matching.free_targets],
    )
    wishes, folding = brief.wishes, brief.folding
    shown = folding.shown if folding else specs
    facts = gather_facts(matching.matches, leaves, shown, target, brief.options, brief.network)
    draft = compose(matching.matches, facts)
    drafted = unfold_steps(draft.steps, folding) if folding else draft.steps
    decided = {name: _undoubted(step, wishes) for name, step in drafted.items()} | dict(brief.settled)
    steps = tuple(decided.get(slot.name) or fresh_step(slot, wishes.is_fresh, wishes.is_zero) for slot in target.slots)
    steps = over_ranks(steps, brief.ranks) if brief.ranks else steps
    unused = unused_sources(steps, shown, draft.rejected, matching, brief.network)
    unused = unfold_unused(unused, steps, folding, brief.network) if folding else unused
    plan = Plan(
        steps=steps, unused=unused, notes=matching.notes, network=brief.network, source_specs=specs, policy=brief.policy
    )
    return replace(plan, objections=object_to(plan))


def _undoubted(step: Step, wishes: Wishes) -> Step:
    """Return the step under the caller's view of doubt: what isn't accepted is doubt, and may be left fresh."""
    if step.certainty is Certainty.LIKELY and wishes.accept == "certain":
        step = replace(step, certainty=Certainty.DOUBT)
    if step.certainty is not Certainty.DOUBT or wishes.on_doubt != "skip":
        return step
    why = Why("doubt", "left fresh for doubt: " + step.why.text, step.why.evidence)
    return Step(slot=step.slot, why=why, certainty=Certainty.CERTAIN, alternatives=step.alternatives)
