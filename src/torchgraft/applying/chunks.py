"""What is to be read, cut and gathered into chunks: as much at a time as stays in a processor's cache."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Step
from torchgraft.core.written import Sample, sample_ranges

if TYPE_CHECKING:
    import torch

    from torchgraft.applying.memory import Bytes
    from torchgraft.applying.segments import Segment

MOST_PARTS = 256
BLOCK = 4 << 20  # bytes of the wider type that are cast at a time
TURNED = 2 << 20  # bytes of a matrix that are turned at a time, in whole rows
SENT = 4 << 20  # bytes that are sent to a device at a time


class Transfer(NamedTuple):
    """One slot to be filled by reading: its bytes, and where they come from; `size` of them are read in all.

    `room` is where its old values are kept (0: they are not). `proves`: it is read twice, and its old values are needed
    no more when the second time begins. `bare`: there is no way back from the first byte on. `given`: the element type that
    it is cast from; sizes of its segments count in that type then. `samples` takes the checksums of what is compared
    after writing. `away`: its memory is a device's, and `data` is empty. `row`: it is a matrix that the file has the other
    way round, and so many bytes of it are a row there; else 0.
    """

    step: Step
    value: torch.Tensor
    data: Bytes
    segments: tuple[Segment, ...]
    size: int
    samples: list[Sample]
    room: int = 0
    proves: bool = False
    bare: bool = False
    given: DType | None = None
    away: bool = False
    row: int = 0

    @property
    def name(self) -> str:
        """The name of the slot."""
        return self.step.slot.name

    @property
    def names(self) -> list[str]:
        """The slot."""
        return [self.step.slot.spec.name]

    def spoil(self) -> None:
        """Fill what was to be read with NaN, or with zeros where the type has no NaN."""
        flat, unit = self.value.view(-1), self.value.element_size()
        filler = float("nan") if flat.is_floating_point() or flat.is_complex() else 0
        for segment in self.segments:
            count = segment.size // (self.given.itemsize if self.given else unit)
            flat[segment.at // unit : segment.at // unit + count].fill_(filler)


class Part(NamedTuple):
    """Some bytes of a segment: `size` from byte `start` of the source tensor, to byte `at` of the slot.

    `done` is how many bytes of the transfer come before it. Of what is cast, `at` counts bytes of the slot's type, all else
    those of the type that it is cast from.
    """

    transfer: Transfer
    segment: Segment
    start: int
    at: int
    size: int
    done: int


Chunk = list[Part]


def chunks(transfers: Sequence[Transfer], most: int) -> Iterator[Chunk]:
    """Yield all bytes of `transfers` in their order, at most `most` at a time: many small tensors, or a part of one.

    What is cast comes in chunks of one pair of types, of at most BLOCK bytes of the wider one, what goes to a device in
    chunks of at most SENT, what is turned in some rows of one tensor.
    """
    chunk: Chunk = []
    left = most
    kind: Hashable = None
    for transfer in transfers:
        mine, limit, unit, wide = _cut(transfer, most)
        if mine != kind:
            if chunk:
                yield chunk
            chunk, left, kind = [], limit, mine
        done = 0
        for segment in transfer.segments:
            for skip in range(0, segment.size, limit):
                size = min(limit, segment.size - skip)
                if size > left or len(chunk) == MOST_PARTS:
                    yield chunk
                    chunk, left = [], limit
                at = segment.at + skip // unit * wide
                chunk.append(Part(transfer, segment, segment.start + skip, at, size, done))
                left -= size
                done += size
    if chunk:
        yield chunk


def _cut(transfer: Transfer, most: int) -> tuple[Hashable, int, int, int]:
    """Return what a chunk with bytes of `transfer` has in common, its most bytes, and how many bytes of the file become how many."""
    if transfer.away:
        return transfer.value.device, min(most, SENT), 1, 1
    if transfer.row:
        return transfer.name, max(min(most, TURNED) // transfer.row, 1) * transfer.row, 1, 1
    if transfer.given:
        wanted = transfer.step.slot.spec.dtype
        unit, wide = transfer.given.itemsize, wanted.itemsize
        return (transfer.given, wanted), max(BLOCK // max(unit, wide), 1) * unit, unit, wide
    return None, most, 1, 1


def sampled(total: int, done: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield what is compared after writing of `size` bytes that come after `done` others of `total`: counted from their own first."""
    for low, high in sample_ranges(total):
        start, stop = max(low, done), min(high, done + size)
        if start < stop:
            yield start - done, stop - done
