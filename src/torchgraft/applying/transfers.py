"""The fast way: bytes of the file straight into the memory of the model."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchgraft.applying.crew import Crew
from torchgraft.applying.finite import NONE, odd_values
from torchgraft.applying.undo import AUTO, KEEP, KEPT
from torchgraft.core.checksums import crc32
from torchgraft.core.plan import Action
from torchgraft.core.written import Sample, Written, sample_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import torch

    from torchgraft.applying.findings import Findings
    from torchgraft.applying.memory import Bytes
    from torchgraft.applying.segments import Segment
    from torchgraft.applying.undo import Undo
    from torchgraft.core.plan import Step
    from torchgraft.core.specs import Source

PIECE = 1 << 20
SMALL = 64 << 10


class Transfer(NamedTuple):
    """One slot to be filled by reading: its bytes, and where they come from.

    `room` is where its old values are kept (0: they are not). `proves`: it is read twice, and its old values are needed
    no more when the second time begins. `bare`: there is no way back from the first byte on.
    """

    step: Step
    value: torch.Tensor
    data: Bytes
    segments: tuple[Segment, ...]
    room: int = 0
    proves: bool = False
    bare: bool = False

    @property
    def size(self) -> int:
        """Number of bytes that are moved."""
        return sum(segment.size for segment in self.segments)

    def spoil(self) -> None:
        """Fill what was to be read with NaN, or with zeros where the type has no NaN."""
        flat, unit = self.value.view(-1), self.value.element_size()
        filler = float("nan") if flat.is_floating_point() or flat.is_complex() else 0
        for segment in self.segments:
            flat[segment.at // unit : (segment.at + segment.size) // unit].fill_(filler)


class Transfers:
    """Reads tensors in two goes.

    First everything that can be refused is settled: tensors with room for their old values, or without old values, are
    read into their places; of the others each byte is read and looked at, and the model is left alone. Then, when
    nothing speaks against it any more, those are read again, into their places.
    """

    def __init__(self, source: Source, undo: Undo, findings: Findings, written: Written) -> None:
        self._source = source
        self._undo = undo
        self._findings = findings
        self._written = written
        self._scratch = threading.local()
        self._first = Crew(self._take)
        self._second = Crew(self._write)
        self._later: list[Transfer] = []
        self._parted: list[tuple[str, str]] = []
        self.begun: list[Transfer] = []

    def start(self, transfers: Sequence[Transfer], *, in_turn: bool = False) -> None:
        """Begin with the first go, beside whatever the caller does meanwhile; `in_turn`: one after the other."""
        self.begun = [t for t in transfers if t.bare]
        self._later = [t for t in transfers if t.proves]
        parts = [t.segments for t in transfers if t.step.action is Action.ADAPT]
        self._parted = list(dict.fromkeys((s.network, s.key) for found in parts for s in found))
        self._first.start(transfers, helpers=not in_turn)

    def finish(self, between: Callable[[], None]) -> None:
        """Work along until the first go is done; `between` is called now and then, and may raise."""
        self._first.finish(between)
        for network, key in self._parted:
            self._source.check(network, key)

    def write(self) -> None:
        """Do the second go: from here on only a file that changes or a disk that fails stands in the way."""
        self.begun += self._later
        self._second.start(self._later)
        self._second.finish()

    def stop(self) -> None:
        """Return when no helper writes any more."""
        self._first.stop()
        self._second.stop()

    def _take(self, transfer: Transfer) -> None:
        """Read one slot piece by piece, in order, so that a piece is kept, read and looked at while in the cache."""
        step, data, dtype = transfer.step, transfer.data, transfer.step.slot.spec.dtype
        aside = transfer.proves or transfer.size <= SMALL  # a copy costs less than reading samples again
        scratch = self._buffer()
        ranges = list(sample_ranges(transfer.size))
        samples: list[Sample] = []
        odd, done = NONE, 0
        for segment in transfer.segments:
            for start in range(0, segment.size, PIECE):
                at, size = segment.at + start, min(PIECE, segment.size - start)
                if transfer.room:
                    self._undo.keep_bytes(transfer.room + at, transfer.value.data_ptr() + at, size)
                piece = scratch[:size] if aside else data[at : at + size]
                self._source.read_into(segment.network, segment.key, piece.data, segment.start + start)
                if self._findings.looks_for_odd:
                    odd += odd_values(piece, dtype)
                if aside:
                    samples += _sampled(piece, done, at, ranges)
                    if not transfer.proves:
                        data[at : at + size] = piece
                done += size
        if odd:
            self._findings.odd(step, odd)
        self._written.samples[step.slot.name] = tuple(samples if aside else self._again(transfer, ranges))

    def _again(self, transfer: Transfer, ranges: Sequence[tuple[int, int]]) -> Iterator[Sample]:
        """Read the sampled parts once more, apart from the model, and yield their checksums."""
        done = 0
        for segment in transfer.segments:
            for low, high in ranges:
                start, stop = max(low - done, 0), min(high - done, segment.size)
                if start < stop:
                    page = memoryview(bytearray(stop - start))
                    self._source.read_into(segment.network, segment.key, page, segment.start + start)
                    yield Sample(segment.at + start, segment.at + stop, crc32(page, 0))
            done += segment.size

    def _write(self, transfer: Transfer) -> None:
        for segment in transfer.segments:
            place = transfer.data[segment.at : segment.at + segment.size]
            self._source.read_into(segment.network, segment.key, place.data, segment.start)

    def _buffer(self) -> Bytes:
        found: Bytes | None = getattr(self._scratch, "bytes", None)
        if found is None:
            found = self._scratch.bytes = np.empty(PIECE, np.uint8)
        return found


def _sampled(piece: Bytes, done: int, at: int, ranges: Sequence[tuple[int, int]]) -> Iterator[Sample]:
    """Yield the checksums of the sampled parts that lie in a piece: byte `done` of what is moved, byte `at` of the slot."""
    for low, high in ranges:
        start, stop = max(low - done, 0), min(high - done, piece.size)
        if start < stop:
            yield Sample(at + start, at + stop, crc32(piece[start:stop].data, 0))


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
