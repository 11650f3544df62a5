"""Tensors that take no part in a run, such as counters, follow those of their module that did."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from torchgraft.core.plan import Feed, Why

if TYPE_CHECKING:
    from torchgraft.core.plan import Plan, Step


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
