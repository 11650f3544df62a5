"""Steps cut down to what one process needs: the boxes of source tensors that make its box of a slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import xor

from torchgraft.core.plan import Feed, Op, Step
from torchgraft.core.specs import Record, Source, TensorSpec
from torchgraft.core.system.checksums import Partial
from torchgraft.ops import SelectRows
from torchgraft.spreading.boxes import Box, pull
from torchgraft.spreading.team import Team

Places = tuple[int, int]
Specs = Mapping[tuple[str, str], TensorSpec]


@dataclass(frozen=True, slots=True)
class PartFeed:
    """A box of a source tensor on its way into a part of a slot."""

    feed: Feed
    box: Box


@dataclass(frozen=True, slots=True)
class Part:
    """What makes one process's box of a slot."""

    feeds: tuple[PartFeed, ...]
    ops: tuple[Op, ...]


def part_of(step: Step, specs: Specs, box: Box) -> Part | None:
    """Return what makes `box` of what `step` computes, None where the whole must be made first.

    `specs` has the source tensors by (network, key).
    """
    if step.base or not step.feeds or not box.numel:
        return None
    chains = [_forward(feed.ops, specs[feed.network, feed.key]) for feed in step.feeds]
    joined = [[chain[-1] for chain in chains]]
    for op in step.ops:
        joined.append([op.out_spec(joined[-1])])
    wanted: list[Box | None] = [box]
    ops: list[Op] = []
    for op, inputs in zip(reversed(step.ops), reversed(joined[:-1]), strict=True):
        pulled = pull(op, inputs, wanted[0]) if wanted[0] is not None else None
        if pulled is None:
            return None
        wanted = list(pulled.boxes)
        ops = [*pulled.ops, *ops]
    feeds = []
    for feed, chain, want in zip(step.feeds, chains, wanted, strict=True):
        if want is not None:
            found = _through(feed, chain, want)
            if found is None:
                return None
            feeds.append(found)
    return Part(tuple(feeds), tuple(ops))


def limited(step: Step, positions: Sequence[int]) -> tuple[Op, ...]:
    """Return the ops of a step that fills some rows of its slot, followed by a choice among these rows."""
    return step.ops if step.rows is None else (*step.ops, SelectRows(step.rows.dim, tuple(positions)))


def _forward(ops: Sequence[Op], spec: TensorSpec) -> list[TensorSpec]:
    out = [spec]
    for op in ops:
        out.append(op.out_spec([out[-1]]))
    return out


def _through(feed: Feed, chain: Sequence[TensorSpec], box: Box) -> PartFeed | None:
    ops: list[Op] = []
    for op, spec in zip(reversed(feed.ops), reversed(chain[:-1]), strict=True):
        pulled = pull(op, [spec], box)
        if pulled is None or pulled.boxes[0] is None:
            return None
        box = pulled.boxes[0]
        ops = [*pulled.ops, *ops]
    return PartFeed(Feed(feed.key, tuple(ops), feed.network), box)


def compare_together(team: Team, source: Source) -> None:
    """Compare the checksums of records that no process read to its end. Collective; each record is one process's task.

    Where the parts that were read don't make up the whole, that process reads it, unless it is large, as in a load by one
    process.

    Raises:
        CheckpointError: a checksum is wrong; ApplyError in the processes that did not find out.
    """
    records = team.together(source.unchecked)
    told = team.gather(team.together(lambda: _partials(records)))
    places = sorted({place for parts in told for place in parts})

    def compare() -> None:
        for number, place in enumerate(places):
            holders = [rank for rank, parts in enumerate(told) if place in parts]
            if holders[number % len(holders)] == team.rank:
                _compare(records[place], [told[rank][place] for rank in holders])

    team.together(compare)


def _partials(records: Mapping[Places, Record]) -> dict[Places, Partial]:
    found = {place: record.partial for place, record in records.items()}
    return {place: part for place, part in found.items() if part}


def _compare(record: Record, parts: Sequence[Partial]) -> None:
    """Compare the checksum of one record. Replicas read the same ranges, which count once.

    Ranges that overlap, and make up for it by gaps, don't give the checksum: what decides is the record itself then.
    """
    distinct = {part.ranges: part for part in parts}.values()
    if sum(part.covered for part in distinct) != parts[0].size:
        record.check()
    elif not record.agrees(reduce(xor, (part.crc for part in distinct))):
        record.check(limit=parts[0].size)
