"""Both sides alike: every tensor goes over as it is, which is decided once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torchgraft.adapting.objections import object_to
from torchgraft.adapting.orientation import MATRIX_TABLES
from torchgraft.adapting.remains import fresh_step
from torchgraft.core.match import Alike
from torchgraft.core.plan import Feed, Plan, Step
from torchgraft.core.policy import Policy
from torchgraft.core.specs import Slot, Target, TensorSpec
from torchgraft.core.system.making import maker

_make_step, _make_feed = maker(Step), maker(Feed)


def copied(
    both: Alike, target: Target, specs: Mapping[str, TensorSpec], policy: Policy, network: str = ""
) -> Plan | None:
    """Return the plan between two sides that are alike; None where some tensor may be stored the other way round.

    It is what `adapt` makes of matches one by one when the caller has said nothing. Equal shapes, all of them, speak for
    equal layouts, and then a square matrix or kernel is taken as it is, too. The one witness against that is a bias
    beside a table of rows: tables are no matrices that could be turned, so their shape says nothing for it.
    """
    if _has_biased_table(target.slots):
        return None
    keys, why = both.keys, both.why
    steps = tuple(
        [
            _make_step(slot=slot, feeds=(_make_feed(keys[slot.spec.name], (), network),), why=why)
            if slot.persistent
            else fresh_step(slot, _never, _never)
            for slot in target.slots
        ]
    )
    plan = Plan(steps=steps, network=network, source_specs=specs, policy=policy)
    return replace(plan, objections=object_to(plan))


def _has_biased_table(slots: Iterable[Slot]) -> bool:
    tables = {slot.owner for slot in slots if slot.kind in MATRIX_TABLES}
    return bool(tables) and any(slot.owner in tables and slot.role == "bias" for slot in slots)


def _never(_: str) -> bool:
    return False
