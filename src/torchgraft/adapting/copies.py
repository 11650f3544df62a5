"""Both sides alike: every tensor goes over as it is, which is decided once for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torchgraft.adapting.fit import mismatch
from torchgraft.adapting.objections import objections_to
from torchgraft.adapting.orientation import MATRIX_TABLES, shown_by_bias
from torchgraft.adapting.positions import is_position_table
from torchgraft.adapting.remarks import remarks
from torchgraft.adapting.rows import changed_vocabularies
from torchgraft.adapting.unmatched import SecondNames, fresh_step, unused_sources, without_dead_statistics
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Alike
from torchgraft.core.plan import Feed, Plan, Step, Why
from torchgraft.core.policy import Policy
from torchgraft.core.specs import Network, Slot, Target, TensorSpec
from torchgraft.core.system.fast_objects import maker

_make_step, _make_feed = maker(Step), maker(Feed)


def copied(both: Alike, target: Target, network: Network, policy: Policy) -> Plan | None:
    """Return the plan between two sides that are alike; None where some tensor may be stored the other way round.

    It is what `adapt` makes of matches one by one when the caller has said nothing. Equal shapes, all of them, speak for
    equal layouts, and then a square matrix or kernel is taken as it is, too. The one witness against that is a bias
    beside a table of rows: tables are no matrices that could be turned, so their shape says nothing for it.
    """
    keys, why, specs, path = both.keys, both.why, network.specs, network.path
    spare = len(keys) < len(specs)
    if _has_biased_table(target.slots) or (spare and _shows_turned(specs, target.slots)):
        return None
    if any(map(is_position_table, [m.target for m in both.unlike])) or changed_vocabularies(both.unlike):
        return None
    unlike = {m.target.keys[0]: (m.source.keys[0], mismatch(m.source.shape, m.target.shape)) for m in both.unlike}
    steps = tuple(
        [
            _make_step(slot=slot, feeds=(_make_feed(keys[name], (), path),), why=why)
            if (name := slot.spec.name) in keys and slot.persistent
            else _kept_fresh(slot, unlike)
            for slot in target.slots
        ]
    )
    unused = (
        without_dead_statistics(
            unused_sources(steps, specs, dict(unlike.values()), {}, path, SecondNames(network.shared or {})), target
        )
        if spare
        else ()
    )
    plan = Plan(steps=steps, unused=unused, network=path, source_specs=specs, policy=policy)
    notes = remarks(plan) if spare or any(not step.quiet for step in steps if not step.feeds) else ()
    return replace(plan, objections=objections_to(plan), notes=notes)


def _kept_fresh(slot: Slot, unlike: Mapping[str, tuple[str, str]]) -> Step:
    """Return the step of a slot that takes nothing: its tensor has another shape, or there is none."""
    if slot.name in unlike:
        return Step(slot=slot, why=Why(Ground.SHAPE, unlike[slot.name][1]))
    return fresh_step(slot, _never, _never)


def _has_biased_table(slots: Iterable[Slot]) -> bool:
    tables = {slot.owner for slot in slots if slot.kind in MATRIX_TABLES}
    return bool(tables) and any(slot.owner in tables and slot.role == "bias" for slot in slots)


def _shows_turned(specs: Mapping[str, TensorSpec], slots: Iterable[Slot]) -> bool:
    """Whether a bias shows that a matrix is stored [in, out] which no layer of the model takes."""
    told = {slot.spec.name for slot in slots if slot.kind not in MATRIX_TABLES}
    return any(in_out for _, in_out in shown_by_bias(specs, told))


def _never(_: str) -> bool:
    return False
