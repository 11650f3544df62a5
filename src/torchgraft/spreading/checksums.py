"""Checksums of records that several processes read in part: what each read of one adds up to the checksum of all of it."""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchgraft.core.specs import Record, Source
    from torchgraft.core.system.checksums import Partial
    from torchgraft.spreading.team import Team

    Places = tuple[int, int]


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
