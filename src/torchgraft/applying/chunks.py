"""What is to be read: cut into chunks that stay in a processor's cache, each part read into its slot or aside.

Read aside is what must be looked at before it is written, and the samples that are compared after writing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.applying.finite import may_be_nonfinite
from torchgraft.applying.memory import invalidate
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Step
from torchgraft.core.specs import Piece
from torchgraft.core.system.checksums import crc32
from torchgraft.core.written import SMALL as COMPARED_WHOLE
from torchgraft.core.written import Sample, sample_ranges

if TYPE_CHECKING:
    import torch

    from torchgraft.applying.memory import Bytes
    from torchgraft.applying.moves import Segment


MOST_PARTS = 256
BLOCK = 4 << 20  # bytes of the wider type that are cast at a time
TRANSPOSED = 2 << 20  # bytes of a matrix that are transposed at a time, in whole rows
SENT = 4 << 20  # bytes that are sent to a device at a time


class Transfer(NamedTuple):
    """One slot to be filled by reading: its bytes, and where they come from; `size` of them are read in all.

    `undo_address` is where its old values are kept (0: they are not). `read_twice`: it is read twice, and its old values are
    needed no more when the second time begins. `unprotected`: there is no way back from the first byte on. `given`: the element
    type that it is cast from; sizes of its segments count in that type then. `samples` takes the checksums of what is compared
    after writing. `on_device`: its memory is a device's, and `data` is empty. `row`: it is a matrix that the file has the other
    way round, and so many bytes of it are a row there; else 0.
    """

    step: Step
    value: torch.Tensor
    data: Bytes
    segments: tuple[Segment, ...]
    size: int
    samples: list[Sample]
    undo_address: int = 0
    read_twice: bool = False
    unprotected: bool = False
    given: DType | None = None
    on_device: bool = False
    row: int = 0

    @property
    def name(self) -> str:
        """The name of the slot."""
        return self.step.slot.name

    @property
    def names(self) -> list[str]:
        """The slot."""
        return [self.step.slot.spec.name]

    def invalidate(self) -> None:
        """Fill what was to be read with NaN, or with zeros where the type has no NaN."""
        flat, unit = self.value.view(-1), self.value.element_size()
        for segment in self.segments:
            count = segment.size // (self.given.itemsize if self.given else unit)
            invalidate(flat[segment.at // unit : segment.at // unit + count])


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
    chunks of at most SENT, what is transposed in some rows of one tensor.
    """
    chunk: Chunk = []
    left = most
    kind: Hashable = None
    for transfer in transfers:
        mine, limit, unit, wide = _limits(transfer, most)
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


def _limits(transfer: Transfer, most: int) -> tuple[Hashable, int, int, int]:
    """Return what all of a chunk with `transfer` must share, its most bytes, and the sizes of an element in file and slot."""
    if transfer.on_device:
        return transfer.value.device, min(most, SENT), 1, 1
    if transfer.row:
        return transfer.name, max(min(most, TRANSPOSED) // transfer.row, 1) * transfer.row, 1, 1
    if transfer.given:
        wanted = transfer.step.slot.spec.dtype
        unit, wide = transfer.given.itemsize, wanted.itemsize
        return (transfer.given, wanted), max(BLOCK // max(unit, wide), 1) * unit, unit, wide
    return None, most, 1, 1


def sampled(total: int, done: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges that are compared after writing within `size` bytes from byte `done` on of `total`, counted from there."""
    for low, high in sample_ranges(total):
        start, stop = max(low, done), min(high, done + size)
        if start < stop:
            yield start - done, stop - done


SMALL = 64 << 10
# Bytes of memory aside, so that elements of every type, the widest one included, begin where they may.
WASTE = MOST_PARTS * 16


class Stretch(NamedTuple):
    """`size` bytes of a slot, from byte `at` on, that are read to one place: the slot itself, or aside.

    `done` bytes of the transfer come before them. `aside` is their place in the memory aside, -1 for those read into the slot.
    """

    transfer: Transfer
    at: int
    size: int
    done: int
    where: Bytes
    aside: int

    def add_checksums(self) -> None:
        """Keep checksums of what will be compared after writing, of what was read aside."""
        transfer, at, size, done, where, _ = self
        if size == transfer.size <= COMPARED_WHOLE or not _is_read_aside(transfer):
            transfer.samples.append(Sample(at, at + size, crc32(where.data, 0)))
            return
        for low, high in sampled(transfer.size, done, size):
            transfer.samples.append(Sample(at + low, at + high, crc32(where[low:high].data, 0)))

    def put(self) -> None:
        """Write what was read aside into the slot."""
        self.transfer.data[self.at : self.at + self.size] = self.where


def memory_aside(chunk: Chunk) -> int:
    """Return how much memory lay_out() needs at most, stepwise, so that a thread seldom takes more than it has."""
    aside = sum(
        [size if _is_read_aside(transfer) else min(size, COMPARED_WHOLE) for transfer, _, _, _, size, _ in chunk]
    )
    return (1 << (aside - 1).bit_length()) + WASTE


def lay_out(chunk: Chunk, memory: Bytes) -> tuple[list[Piece], list[Stretch]]:
    """Return what is to be read, and where: aside what is not to be written yet, goes to a device, is small, or is compared later.

    In `memory`, whole parts that may hold NaN lie in front, side by side as in the file: one look tells of many.
    """
    pieces: list[Piece] = []
    stretches: list[Stretch] = []
    front, back = 0, memory.size
    for part in chunk:
        transfer, segment, start, at, size, done = part
        dtype = transfer.step.slot.spec.dtype
        unit = dtype.itemsize
        whole = _is_read_aside(transfer)
        in_front = whole and may_be_nonfinite(dtype)
        for low, high, is_aside in ((0, size, True),) if whole else _pieces_of(part):
            many = high - low
            if not is_aside:
                place, where = -1, transfer.data[at + low : at + high]
            elif in_front:
                place = -(-front // unit) * unit
                front = place + many
                where = memory[place:front]
            else:
                back = place = (back - many) // unit * unit
                where = memory[place : place + many]
            pieces.append(Piece(segment.network, segment.key, start + low, where.data))
            stretches.append(Stretch(transfer, at + low, many, done + low, where, place))
    return pieces, stretches


def _pieces_of(part: Part) -> Iterator[tuple[int, int, bool]]:
    """Yield the stretches (start, stop) of a part, and of each whether it is read aside, to be compared later."""
    at = 0
    for start, stop in sampled(part.transfer.size, part.done, part.size):
        if at < start:
            yield at, start, False
        yield start, stop, True
        at = stop
    if at < part.size:
        yield at, part.size, False


def _is_read_aside(transfer: Transfer) -> bool:
    """Return whether all of a transfer is read aside; else only what is compared later, as nothing else may tell of that."""
    return transfer.read_twice or transfer.on_device or transfer.size <= SMALL


class Look(NamedTuple):
    """Values of one type that lie side by side and may hold NaN, and which of them are whose."""

    values: Bytes
    dtype: DType
    owners: Sequence[tuple[Step, Bytes]]


def looks(chunk: Chunk, stretches: Iterable[Stretch], memory: Bytes) -> Iterator[Look]:
    """Yield what is to be looked at, once all of it was read and put: parts in their slots one by one, aside many at a time."""
    for transfer, _, _, at, size, _ in chunk:
        step = transfer.step
        if not _is_read_aside(transfer) and may_be_nonfinite(dtype := step.slot.spec.dtype):
            values = transfer.data[at : at + size]
            yield Look(values, dtype, [(step, values)])
    group: list[Stretch] = []
    for stretch in stretches:
        if not (_is_read_aside(stretch.transfer) and may_be_nonfinite(_dtype(stretch))):
            continue
        if group and (_dtype(group[0]) is not _dtype(stretch) or stretch.aside != group[-1].aside + group[-1].size):
            yield _together(group, memory)
            group = []
        group.append(stretch)
    if group:
        yield _together(group, memory)


def _dtype(stretch: Stretch) -> DType:
    return stretch.transfer.step.slot.spec.dtype


def _together(group: Sequence[Stretch], memory: Bytes) -> Look:
    values = memory[group[0].aside : group[-1].aside + group[-1].size]
    return Look(values, _dtype(group[0]), [(stretch.transfer.step, stretch.where) for stretch in group])
