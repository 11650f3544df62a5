"""The fast way: bytes of the file straight into the memory of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from torchgraft.applying.casting import Casts
from torchgraft.applying.chunks import Chunk, Part, Stretch, Transfer, chunks, lay_out, looks, memory_aside
from torchgraft.applying.device_copies import DeviceCopiers
from torchgraft.applying.findings import Findings
from torchgraft.applying.finite import NONE, Nonfinite, count_nonfinite
from torchgraft.applying.memory import Bytes, Scratch
from torchgraft.applying.transposing import Transposes
from torchgraft.applying.undo import Undo
from torchgraft.applying.workers import Workers
from torchgraft.core.plan import Action, Step
from torchgraft.core.specs import Piece, Source
from torchgraft.core.written import Written

# Bytes that are read and looked at in one go: they stay in the cache that cores share, and most large tensors are a multiple.
# Fewer would wake other threads too often.
LOOKED_AT = 4 << 20
MOVED = 16 << 20  # of what is only moved
SHARES = 16  # at least so many, if they aren't too small, so that threads end at about the same time
LEAST = 1 << 20
EVEN = 64 << 10  # they are multiples of it: of the elements of every type, and of as many as are looked at in one go


class Transfers:
    """Reads tensors in two passes.

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
        self._first = Workers(self._take)
        self._second = Workers(self._write)
        self._casts = Casts(source, undo, findings)
        self._transposes = Transposes(source, written)
        self._copiers = DeviceCopiers()
        self._later: list[Transfer] = []
        self._parted: list[tuple[str, str]] = []
        self._nonfinite: list[tuple[Step, Nonfinite]] = []
        self.begun: list[Transfer] = []

    def start(self, transfers: Sequence[Transfer]) -> None:
        """Begin with the first pass, beside whatever the caller does meanwhile."""
        self.begun = [t for t in transfers if t.unprotected]
        self._later = [t for t in transfers if t.read_twice]
        parts = [t.segments for t in transfers if t.step.action is Action.ADAPT]
        self._parted = list(dict.fromkeys((s.network, s.key) for found in parts for s in found))
        self._copiers.begin({t.value.device for t in transfers if t.on_device})
        self._first.start(_shared(transfers, LOOKED_AT))

    def finish(self, between: Callable[[], None]) -> None:
        """Work, too, until the first pass is done; `between` is called now and then, and may raise."""
        self._first.finish(between)
        self._copiers.wait()
        for network, key in self._parted:
            self._source.check(network, key)
        found: dict[str, tuple[Step, Nonfinite]] = {}
        for step, nonfinite in self._nonfinite:
            found[step.slot.name] = (step, nonfinite + found.get(step.slot.name, (step, NONE))[1])
        for step, nonfinite in found.values():
            self._findings.nonfinite(step, nonfinite)
        self._casts.report()

    def write(self) -> None:
        """Do the second pass: from here on only a file that changes or a disk that fails stands in the way."""
        self.begun += self._later
        self._second.start(_shared(self._later, MOVED))
        self._second.finish()
        self._copiers.wait()

    def stop(self) -> None:
        """Return when no helper writes any more, and nothing is under way."""
        self._first.stop()
        self._second.stop()
        with suppress(Exception):  # a device that failed; what to tell of it is on its way already
            self._copiers.wait()

    def _take(self, chunk: Chunk) -> None:
        """Keep old values, read, take checksums of what is compared later, look at every value, and put it into its place."""
        if chunk[0].transfer.given:
            self._casts.take(chunk)
        elif chunk[0].transfer.on_device:
            self._send(chunk)
        elif chunk[0].transfer.row:
            self._transpose(chunk[0])
        else:
            self._move(chunk)
        self._tick(sum([part.size for part in chunk]))

    def _move(self, chunk: Chunk) -> None:
        for transfer, _, _, at, size, _ in chunk:
            if transfer.undo_address:
                self._undo.keep_bytes(transfer.undo_address + at, transfer.value.data_ptr() + at, size)
        memory = self._scratch.take(memory_aside(chunk))
        pieces, stretches = lay_out(chunk, memory)
        self._source.read_pieces(pieces)
        for stretch in stretches:
            if stretch.aside >= 0:
                stretch.add_checksums()
                if not stretch.transfer.read_twice:
                    stretch.put()
        if self._findings.checks_finite:
            self._look_at(chunk, stretches, memory)

    def _send(self, chunk: Chunk) -> None:
        """Read, take checksums of what is compared later, look at every value, and send it to its place on the device."""
        copier = self._copiers.to(chunk[0].transfer.value.device)
        memory = copier.memory()
        pieces, stretches = lay_out(chunk, memory)
        self._source.read_pieces(pieces)
        for stretch in stretches:
            stretch.add_checksums()
        if self._findings.checks_finite:
            self._look_at(chunk, stretches, memory)
        copier.send([stretch for stretch in stretches if not stretch.transfer.read_twice])

    def _transpose(self, part: Part) -> None:
        raw, step = self._transposes.take(part), part.transfer.step
        if self._findings.checks_finite and (nonfinite := count_nonfinite(raw, step.slot.spec.dtype)):
            self._nonfinite.append((step, nonfinite))

    def _look_at(self, chunk: Chunk, stretches: Sequence[Stretch], memory: Bytes) -> None:
        """Note NaN and infinities: of values of one type that lie side by side, with one look."""
        for values, dtype, owners in looks(chunk, stretches, memory):
            if count_nonfinite(values, dtype):
                found = ((step, count_nonfinite(own, dtype)) for step, own in owners)
                self._nonfinite += [(step, nonfinite) for step, nonfinite in found if nonfinite]

    def _write(self, chunk: Chunk) -> None:
        if chunk[0].transfer.given:
            self._casts.write(chunk)
        elif chunk[0].transfer.on_device:
            self._send_again(chunk)
        elif chunk[0].transfer.row:
            self._transposes.write(chunk[0])
        else:
            self._source.read_pieces([_into_slot(part) for part in chunk])
        self._told(sum([part.size for part in chunk]))

    def _send_again(self, chunk: Chunk) -> None:
        copier = self._copiers.to(chunk[0].transfer.value.device)
        pieces, stretches = lay_out(chunk, copier.memory())
        self._source.read_pieces(pieces)
        copier.send(stretches)

    def _told(self, size: int) -> None:
        with suppress(Exception):  # there is no way back: a listener that fails must not cost the model
            self._tick(size)


def _shared(transfers: Sequence[Transfer], most: int) -> list[Chunk]:
    """Return what is to be read in chunks of at most `most` bytes, and less where that makes too few of them."""
    total = sum([transfer.size for transfer in transfers])
    return list(chunks(transfers, min(most, max(total // SHARES // EVEN * EVEN, LEAST))))


def _into_slot(part: Part) -> Piece:
    """Return what is to be read of a part, straight into its slot."""
    transfer, segment, start, at, size, _ = part
    return Piece(segment.network, segment.key, start, transfer.data[at : at + size].data)
