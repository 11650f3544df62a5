"""What only values tell about a plan, before anything is written: ties that conflict, and tensors that repeat others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torchgraft.core.plan import Objection, Unused, Why
from torchgraft.verifying.values.odd_buffers import odd_buffers
from torchgraft.verifying.values.repeats import echoes, same_values

if TYPE_CHECKING:
    from torchgraft.core.plan import Plan
    from torchgraft.core.specs import Source


def with_values(made: Plan, source: Source, model: object = None) -> Plan:
    """Return the plan with what only values tell: tied tensors that differ, unused ones that repeat a used one, and
    buffers that contradict the model's.
    """
    said = [o for o in (*_conflicts(made, source), *odd_buffers(made, source, model)) if o not in made.objections]
    return replace(made, objections=(*made.objections, *said), unused=_without_echoes(made, source))


def _conflicts(made: Plan, source: Source) -> tuple[Objection, ...]:
    """Return an objection for each tied slot that two source tensors of different values claim."""
    network = next(n for n in source.networks if n.path == made.network)
    out = []
    for unused in made.unused:
        if unused.why.rule != "alias":
            continue
        key = unused.spec.name
        fed = made.by_name[key].feeds[0].key
        shared = network.shared or {}
        if shared.get(key, key) != shared.get(fed, fed) and not same_values(source, made.network, key, fed):
            text = f"{key} and {fed} are one tensor in the model (tied) and hold different values in the file"
            out.append(
                Objection("conflict", f"{text}; remove one of them from the file, or untie the model", (key, fed))
            )
    return tuple(out)


def _without_echoes(made: Plan, source: Source) -> tuple[Unused, ...]:
    """Return the unused tensors; those that repeat a used one, value for value, are nothing to worry about."""
    spare = [u.spec for u in made.unused if not u.quiet and u.why.rule == "no counterpart"]
    if not spare:
        return made.unused
    used = {feed.key: made.source_specs[feed.key] for step in made.steps for feed in step.feeds}
    twins = echoes(source, made.network, spare, used.values())
    return tuple(
        replace(u, quiet=True, why=Why("echo", f"holds the same values as {twins[u.spec.name]}"))
        if u.spec.name in twins
        else u
        for u in made.unused
    )
