"""Where the parts of a chunk are read to: into their slots, or aside to be looked at first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.applying.chunks import MOST_PARTS, Chunk, Part, Transfer, sampled
from torchgraft.applying.finite import can_be_odd
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Step
from torchgraft.core.specs import Piece
from torchgraft.core.system.checksums import crc32
from torchgraft.core.written import SMALL as COMPARED_WHOLE
from torchgraft.core.written import Sample

if TYPE_CHECKING:
    from torchgraft.applying.memory import Bytes

SMALL = 64 << 10
WASTE = (
    MOST_PARTS * 16
)  # of memory aside, so that elements of every type, the widest one included, begin where they may


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

    def sum_up(self) -> None:
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


def room_for(chunk: Chunk) -> int:
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
        in_front = whole and can_be_odd(dtype)
        for low, high, is_aside in ((0, size, True),) if whole else _cut(part):
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


def _cut(part: Part) -> Iterator[tuple[int, int, bool]]:
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
    return transfer.proves or transfer.away or transfer.size <= SMALL


class Look(NamedTuple):
    """Values of one type that lie side by side and may hold NaN, and which of them are whose."""

    values: Bytes
    dtype: DType
    owners: Sequence[tuple[Step, Bytes]]


def looks(chunk: Chunk, stretches: Iterable[Stretch], memory: Bytes) -> Iterator[Look]:
    """Yield what is to be looked at, once all of it was read and put: parts in their slots one by one, aside many at a time."""
    for transfer, _, _, at, size, _ in chunk:
        step = transfer.step
        if not _is_read_aside(transfer) and can_be_odd(dtype := step.slot.spec.dtype):
            values = transfer.data[at : at + size]
            yield Look(values, dtype, [(step, values)])
    group: list[Stretch] = []
    for stretch in stretches:
        if not (_is_read_aside(stretch.transfer) and can_be_odd(_dtype(stretch))):
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
