"""Both sides alike: every tensor goes over as it is, which is decided once for all of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torchgraft.adapting.objections import objections_to
from torchgraft.adapting.orientation import MATRIX_TABLES
from torchgraft.adapting.unmatched import fresh_step
from torchgraft.core.match import Alike
from torchgraft.core.plan import Feed, Plan, Step
from torchgraft.core.policy import Policy
from torchgraft.core.specs import Network, Slot, Target
from torchgraft.core.system.fast_objects import maker

_make_step, _make_feed = maker(Step), maker(Feed)


def copied(both: Alike, target: Target, network: Network, policy: Policy) -> Plan | None:
    """Return the plan between two sides that are alike; None where some tensor may be stored the other way round.

    It is what `adapt` makes of matches one by one when the caller has said nothing. Equal shapes, all of them, speak for
    equal layouts, and then a square matrix or kernel is taken as it is, too. The one witness against that is a bias
    beside a table of rows: tables are no matrices that could be turned, so their shape says nothing for it.
    """
    if _has_biased_table(target.slots):
        return None
    keys, why, path = both.keys, both.why, network.path
    steps = tuple(
        [
            _make_step(slot=slot, feeds=(_make_feed(keys[slot.spec.name], (), path),), why=why)
            if slot.persistent
            else fresh_step(slot, _never, _never)
            for slot in target.slots
        ]
    )
    plan = Plan(steps=steps, network=path, source_specs=network.specs, policy=policy)
    return replace(plan, objections=objections_to(plan))


def _has_biased_table(slots: Iterable[Slot]) -> bool:
    tables = {slot.owner for slot in slots if slot.kind in MATRIX_TABLES}
    return bool(tables) and any(slot.owner in tables and slot.role == "bias" for slot in slots)


def _never(_: str) -> bool:
    return False
