"""The fast way: bytes of the file straight into the memory of the model."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchgraft.applying.crew import Crew
from torchgraft.applying.finite import NONE, odd_values
from torchgraft.core.checksums import crc32
from torchgraft.core.written import Sample, Written, sample_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch

    from torchgraft.applying.findings import Findings
    from torchgraft.applying.memory import Bytes
    from torchgraft.applying.undo import Undo
    from torchgraft.core.plan import Step
    from torchgraft.core.specs import Source

PIECE = 1 << 20


class Transfer(NamedTuple):
    """One tensor to be read: the bytes it goes to, and the room for its old values (0: they are not kept).

    `proves`: it is read twice, and its old values are needed no more when the second time begins.
    """

    step: Step
    value: torch.Tensor
    data: Bytes
    room: int = 0
    proves: bool = False


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
        self.begun: list[Transfer] = []

    def start(self, transfers: Sequence[Transfer]) -> None:
        """Begin with the first go, beside whatever the caller does meanwhile."""
        self._later = [t for t in transfers if t.proves]
        self._first.start(transfers)

    def finish(self, between: Callable[[], None]) -> None:
        """Work along until the first go is done; `between` is called now and then, and may raise."""
        self._first.finish(between)

    def write(self) -> None:
        """Do the second go: from here on only a file that changes or a disk that fails stands in the way."""
        self.begun = self._later
        self._second.start(self._later)
        self._second.finish()

    def stop(self) -> None:
        """Return when no helper writes any more."""
        self._first.stop()
        self._second.stop()

    def _take(self, transfer: Transfer) -> None:
        if transfer.proves:
            self._prove(transfer)
        else:
            self._read(transfer)

    def _read(self, transfer: Transfer) -> None:
        """Read one tensor, piece by piece in order, so that a piece is kept, read and looked at while in the cache."""
        step, value, data, room, _ = transfer
        feed, dtype, address = step.feeds[0], step.slot.spec.dtype, value.data_ptr()
        odd = NONE
        for start in range(0, data.size, PIECE):
            piece = data[start : start + PIECE]
            if room:
                self._undo.keep_bytes(room + start, address + start, piece.size)
            self._source.read_into(feed.network, feed.key, piece.data, start)
            if self._findings.looks_for_odd:
                odd += odd_values(piece, dtype)
        if odd:
            self._findings.odd(step, odd)

    def _prove(self, transfer: Transfer) -> None:
        """Read one tensor without keeping it: to its end, its checksums compared, its values looked at."""
        step, size = transfer.step, transfer.data.size
        feed, dtype = step.feeds[0], step.slot.spec.dtype
        ranges = list(sample_ranges(size))
        samples: list[Sample] = []
        odd = NONE
        scratch = self._buffer()
        for start in range(0, size, PIECE):
            piece = scratch[: min(PIECE, size - start)]
            self._source.read_into(feed.network, feed.key, piece.data, start)
            if self._findings.looks_for_odd:
                odd += odd_values(piece, dtype)
            for begin, end in ranges:
                if start <= begin < start + PIECE:
                    samples.append(Sample(begin, end, crc32(piece[begin - start : end - start].data, 0)))
        if odd:
            self._findings.odd(step, odd)
        self._written.samples[step.slot.name] = tuple(samples)

    def _write(self, transfer: Transfer) -> None:
        feed = transfer.step.feeds[0]
        self._source.read_into(feed.network, feed.key, transfer.data.data)

    def _buffer(self) -> Bytes:
        found: Bytes | None = getattr(self._scratch, "bytes", None)
        if found is None:
            found = self._scratch.bytes = np.empty(PIECE, np.uint8)
        return found


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
