"""The fast way: bytes of the file straight into the memory of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from torchgraft.applying.casting import Casts
from torchgraft.applying.chunks import Chunk, Part, Stretch, Transfer, chunks, lay_out, looks, room_for
from torchgraft.applying.device_copies import Lanes
from torchgraft.applying.findings import Findings
from torchgraft.applying.finite import NONE, Odd, odd_values
from torchgraft.applying.memory import Scratch
from torchgraft.applying.turning import Turns
from torchgraft.applying.undo import Undo
from torchgraft.applying.workers import Crew
from torchgraft.core.plan import Action, Step
from torchgraft.core.specs import Piece, Source
from torchgraft.core.written import Written

if TYPE_CHECKING:
    from torchgraft.applying.memory import Bytes

# Bytes at a time of what is read and looked at: in the cache that cores share, and what most large tensors are a multiple of.
# Less wakes other threads too often.
LOOKED_AT = 4 << 20
MOVED = 16 << 20  # of what is only moved
SHARES = 16  # at least so many, if they aren't too small, so that threads end at about the same time
LEAST = 1 << 20


class Transfers:
    """Reads tensors in two goes.

    First everything that can be refused is settled: tensors with room for their old values, or without old values, are
    read into their places; of the others each byte is read and looked at, and the model is left alone. Then, when
    nothing speaks against it any more, those are read again, into their places.
    """

    def __init__(  # what it reads, and who hears of it
        self, source: Source, undo: Undo, findings: Findings, written: Written, tick: Callable[[int], None]
    ) -> None:
        self._source = source
        self._undo = undo
        self._findings = findings
        self._written = written
        self._tick = tick
        self._scratch = Scratch()
        self._first = Crew(self._take)
        self._second = Crew(self._write)
        self._casts = Casts(source, undo, findings)
        self._turns = Turns(source, written)
        self._lanes = Lanes()
        self._later: list[Transfer] = []
        self._parted: list[tuple[str, str]] = []
        self._odd: list[tuple[Step, Odd]] = []
        self.begun: list[Transfer] = []

    def start(self, transfers: Sequence[Transfer]) -> None:
        """Begin with the first go, beside whatever the caller does meanwhile."""
        self.begun = [t for t in transfers if t.bare]
        self._later = [t for t in transfers if t.proves]
        parts = [t.segments for t in transfers if t.step.action is Action.ADAPT]
        self._parted = list(dict.fromkeys((s.network, s.key) for found in parts for s in found))
        self._lanes.begin({t.value.device for t in transfers if t.away})
        self._first.start(_shared(transfers, LOOKED_AT))

    def finish(self, between: Callable[[], None]) -> None:
        """Work along until the first go is done; `between` is called now and then, and may raise."""
        self._first.finish(between)
        self._lanes.wait()
        for network, key in self._parted:
            self._source.check(network, key)
        found: dict[str, tuple[Step, Odd]] = {}
        for step, odd in self._odd:
            found[step.slot.name] = (step, odd + found.get(step.slot.name, (step, NONE))[1])
        for step, odd in found.values():
            self._findings.odd(step, odd)
        self._casts.settle()

    def write(self) -> None:
        """Do the second go: from here on only a file that changes or a disk that fails stands in the way."""
        self.begun += self._later
        self._second.start(_shared(self._later, MOVED))
        self._second.finish()
        self._lanes.wait()

    def stop(self) -> None:
        """Return when no helper writes any more, and nothing is under way."""
        self._first.stop()
        self._second.stop()
        with suppress(Exception):  # a device that failed; what to tell of it is on its way already
            self._lanes.wait()

    def _take(self, chunk: Chunk) -> None:
        """Keep old values, read, sum up what is compared later, look at every value, and put it into its place."""
        if chunk[0].transfer.given:
            self._casts.take(chunk)
        elif chunk[0].transfer.away:
            self._send(chunk)
        elif chunk[0].transfer.row:
            self._turn(chunk[0])
        else:
            self._move(chunk)
        self._tick(sum([part.size for part in chunk]))

    def _move(self, chunk: Chunk) -> None:
        for transfer, _, _, at, size, _ in chunk:
            if transfer.room:
                self._undo.keep_bytes(transfer.room + at, transfer.value.data_ptr() + at, size)
        memory = self._scratch.room(room_for(chunk))
        pieces, stretches = lay_out(chunk, memory)
        self._source.read_pieces(pieces)
        for stretch in stretches:
            if stretch.aside >= 0:
                stretch.sum_up()
                if not stretch.transfer.proves:
                    stretch.put()
        if self._findings.looks_for_odd:
            self._look_at(chunk, stretches, memory)

    def _send(self, chunk: Chunk) -> None:
        """Read, sum up what is compared later, look at every value, and send it to its place on the device."""
        lane = self._lanes.to(chunk[0].transfer.value.device)
        memory = lane.memory()
        pieces, stretches = lay_out(chunk, memory)
        self._source.read_pieces(pieces)
        for stretch in stretches:
            stretch.sum_up()
        if self._findings.looks_for_odd:
            self._look_at(chunk, stretches, memory)
        lane.send([stretch for stretch in stretches if not stretch.transfer.proves])

    def _turn(self, part: Part) -> None:
        raw, step = self._turns.take(part), part.transfer.step
        if self._findings.looks_for_odd and (odd := odd_values(raw, step.slot.spec.dtype)):
            self._odd.append((step, odd))

    def _look_at(self, chunk: Chunk, stretches: Sequence[Stretch], memory: Bytes) -> None:
        """Note NaN and infinities: of values of one type that lie side by side, with one look."""
        for values, dtype, owners in looks(chunk, stretches, memory):
            if odd_values(values, dtype):
                found = ((step, odd_values(own, dtype)) for step, own in owners)
                self._odd += [(step, odd) for step, odd in found if odd]

    def _write(self, chunk: Chunk) -> None:
        if chunk[0].transfer.given:
            self._casts.write(chunk)
        elif chunk[0].transfer.away:
            self._send_again(chunk)
        elif chunk[0].transfer.row:
            self._turns.write(chunk[0])
        else:
            self._source.read_pieces([_into_slot(part) for part in chunk])
        self._told(sum([part.size for part in chunk]))

    def _send_again(self, chunk: Chunk) -> None:
        lane = self._lanes.to(chunk[0].transfer.value.device)
        pieces, stretches = lay_out(chunk, lane.memory())
        self._source.read_pieces(pieces)
        lane.send(stretches)

    def _told(self, size: int) -> None:
        with suppress(Exception):  # there is no way back: a listener that fails must not cost the model
            self._tick(size)


def _shared(transfers: Sequence[Transfer], most: int) -> list[Chunk]:
    """Return what is to be read in chunks of at most `most` bytes, and less where that makes too few of them."""
    total = sum([transfer.size for transfer in transfers])
    return list(chunks(transfers, min(most, max(total // SHARES, LEAST))))


def _into_slot(part: Part) -> Piece:
    """Return what is to be read of a part, straight into its slot."""
    transfer, segment, start, at, size, _ = part
    return Piece(segment.network, segment.key, start, transfer.data[at : at + size].data)
