"""The fast way: bytes of the file straight into the memory of the model."""

from __future__ import annotations

import threading
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchgraft.applying.casting import Casts
from torchgraft.applying.chunks import MOST_PARTS, chunks, sampled
from torchgraft.applying.crew import Crew
from torchgraft.applying.finite import NONE, Odd, odd_values
from torchgraft.applying.undo import AUTO, KEEP, KEPT
from torchgraft.core.checksums import crc32
from torchgraft.core.plan import Action
from torchgraft.core.specs import Piece
from torchgraft.core.written import Sample, Written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch

    from torchgraft.applying.chunks import Chunk, Part, Transfer
    from torchgraft.applying.findings import Findings
    from torchgraft.applying.memory import Bytes
    from torchgraft.applying.undo import Undo
    from torchgraft.core.plan import Step
    from torchgraft.core.specs import Source

LOOKED_AT = 4 << 20  # of what is read and looked at: in the cache that cores share; less wakes other threads too often
MOVED = 16 << 20  # of what is only moved
SMALL = 64 << 10
WIDEST = 16  # bytes of the widest element


class _Stretch(NamedTuple):
    """Bytes of a part that are read to one place: into the slot, or aside, to byte `aside` of the scratch memory."""

    part: Part
    at: int
    size: int
    where: Bytes
    aside: int = -1


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
        self._scratch = threading.local()
        self._first = Crew(self._take)
        self._second = Crew(self._write)
        self._casts = Casts(source, undo, findings, written)
        self._later: list[Transfer] = []
        self._parted: list[tuple[str, str]] = []
        self._odd: list[tuple[Step, Odd]] = []
        self.begun: list[Transfer] = []

    def start(self, transfers: Sequence[Transfer], *, in_turn: bool = False) -> None:
        """Begin with the first go, beside whatever the caller does meanwhile; `in_turn`: one after the other."""
        self.begun = [t for t in transfers if t.bare]
        self._later = [t for t in transfers if t.proves]
        parts = [t.segments for t in transfers if t.step.action is Action.ADAPT]
        self._parted = list(dict.fromkeys((s.network, s.key) for found in parts for s in found))
        self._written.samples.update((t.step.slot.name, []) for t in transfers)
        self._first.start(list(chunks(transfers, LOOKED_AT)), helpers=not in_turn)

    def finish(self, between: Callable[[], None]) -> None:
        """Work along until the first go is done; `between` is called now and then, and may raise."""
        self._first.finish(between)
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
        self._second.start(list(chunks(self._later, MOVED)))
        self._second.finish()

    def stop(self) -> None:
        """Return when no helper writes any more."""
        self._first.stop()
        self._second.stop()

    def _take(self, chunk: Chunk) -> None:
        """Keep old values, read, sum up what is compared later, look at every value, and put it into its place."""
        if chunk[0].transfer.given:
            self._casts.take(chunk)
        else:
            self._move(chunk)
        self._tick(sum([part.size for part in chunk]))

    def _move(self, chunk: Chunk) -> None:
        for part in chunk:
            if part.transfer.room:
                address = part.transfer.value.data_ptr() + part.at
                self._undo.keep_bytes(part.transfer.room + part.at, address, part.size)
        scratch = self._buffer()
        stretches = list(_laid_out(chunk, scratch))
        self._source.read_pieces([_piece(part, at, where) for part, at, _, where, _ in stretches])
        for stretch in stretches:
            if stretch.aside >= 0:
                self._settle(stretch)
        if self._findings.looks_for_odd:
            self._look_at(stretches, scratch)

    def _settle(self, stretch: _Stretch) -> None:
        """Sum up what will be compared of bytes that were read aside, and put them into their place if they may be."""
        part, at, size, where, _ = stretch
        samples = self._written.samples[part.transfer.step.slot.name]
        for start, stop in _sampled(part):
            low, high = max(start, at), min(stop, at + size)
            if low < high:
                samples.append(Sample(low, high, crc32(where[low - at : high - at].data, 0)))
        if not part.transfer.proves:
            part.transfer.data[at : at + size] = where

    def _look_at(self, stretches: Sequence[_Stretch], scratch: Bytes) -> None:
        """Note NaN and infinities: of values of one type that lie side by side in `scratch`, with one look."""
        for group in _side_by_side(stretches):
            first, last = group[0], group[-1]
            dtype = first.part.transfer.step.slot.spec.dtype
            together = first.where if len(group) == 1 else scratch[first.aside : last.aside + last.size]
            if odd_values(together, dtype):
                found = ((s.part.transfer.step, odd_values(s.where, dtype)) for s in group)
                self._odd += [(step, odd) for step, odd in found if odd]

    def _write(self, chunk: Chunk) -> None:
        if chunk[0].transfer.given:
            self._casts.write(chunk)
        else:
            self._source.read_pieces([_piece(p, p.at, p.transfer.data[p.at : p.at + p.size]) for p in chunk])
        self._told(sum([part.size for part in chunk]))

    def _told(self, size: int) -> None:
        with suppress(Exception):  # there is no way back: a listener that fails must not cost the model
            self._tick(size)

    def _buffer(self) -> Bytes:
        found: Bytes | None = getattr(self._scratch, "bytes", None)
        if found is None:
            found = self._scratch.bytes = np.empty(LOOKED_AT + MOST_PARTS * WIDEST, np.uint8)
        return found


def _piece(part: Part, at: int, where: Bytes) -> Piece:
    """Return what is to be read from byte `at` of the part's slot on."""
    return Piece(part.segment.network, part.segment.key, part.start + at - part.at, where.data)


def _laid_out(chunk: Chunk, scratch: Bytes) -> Iterator[_Stretch]:
    """Yield where each part is read to: aside what is not to be written yet, is small, or is compared later."""
    used = 0
    for part in chunk:
        transfer = part.transfer
        unit = transfer.step.slot.spec.dtype.itemsize
        aside = transfer.proves or transfer.size <= SMALL
        for at, end, compared in [(part.at, part.at + part.size, True)] if aside else _cut(part):
            if compared:
                used = -(-used // unit) * unit
                yield _Stretch(part, at, end - at, scratch[used : used + end - at], used)
                used += end - at
            else:
                yield _Stretch(part, at, end - at, transfer.data[at:end])


def _cut(part: Part) -> Iterator[tuple[int, int, bool]]:
    """Yield the stretches (start, stop) of the slot that a part fills, and of each whether it is compared later."""
    at, end = part.at, part.at + part.size
    for start, stop in _sampled(part):
        if at < start:
            yield at, start, False
        yield start, stop, True
        at = stop
    if at < end:
        yield at, end, False


def _sampled(part: Part) -> Iterator[tuple[int, int]]:
    """Yield the stretches of the slot in this part that are compared after writing."""
    for start, stop in sampled(part.transfer.size, part.done, part.size):
        yield part.at + start, part.at + stop


def _side_by_side(stretches: Sequence[_Stretch]) -> Iterator[list[_Stretch]]:
    """Yield groups of stretches of one element type that follow on each other where they were read aside."""
    group: list[_Stretch] = []
    for stretch in stretches:
        if group:
            last = group[-1]
            alike = stretch.part.transfer.step.slot.spec.dtype is last.part.transfer.step.slot.spec.dtype
            if not alike or last.aside < 0 or stretch.aside != last.aside + last.size:
                yield group
                group = []
        group.append(stretch)
    if group:
        yield group


def keeps(transfers: Sequence[Transfer], way: str) -> list[Transfer]:
    """Return those whose old values are kept: all, none, or as many as fit into KEPT bytes, the smallest first."""
    if way == KEEP:
        return list(transfers)
    kept: list[Transfer] = []
    left = KEPT if way == AUTO else 0
    for transfer in sorted(transfers, key=lambda t: t.data.size):
        left -= transfer.data.size
        if left < 0:
            break
        kept.append(transfer)
    return kept


def apart(tensors: Iterable[torch.Tensor]) -> bool:
    """Return whether no two of the plain tensors reach into each other's memory."""
    ranges = sorted((t.data_ptr(), t.data_ptr() + _reach(t)) for t in tensors if t.numel())
    return all(end <= begin for (_, end), (begin, _) in pairwise(ranges))


def _reach(tensor: torch.Tensor) -> int:
    """Return the bytes from the first element to the end of the last."""
    if tensor.is_contiguous():
        return tensor.numel() * tensor.element_size()
    last = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()
