"""Many pieces at once: what lies side by side in a file comes with one system call."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

from torchgraft.core.dtypes import DType
from torchgraft.core.specs import Piece
from torchgraft.core.system.checksums import crc32
from torchgraft.reading.containers.zip_records import RecordBytes
from torchgraft.reading.disk.files import CheckpointFile
from torchgraft.reading.tensors import FileBytes, StoredTensor, TensorView

GAP = 4096  # reading over a gap of this size costs less than another system call


class Spot(NamedTuple):
    """Where all bytes of a tensor lie in a file as they are wanted: `size` of them, from `offset` on.

    Those of a zip record are its bytes from `start` on.
    """

    file: CheckpointFile
    offset: int
    size: int
    record: RecordBytes | None = None
    start: int = 0


class _Wanted(NamedTuple):
    """What a buffer is filled with: the bytes of the file from `offset` on, those of the record from `start` on, if any."""

    file: CheckpointFile
    offset: int
    buffer: memoryview
    record: RecordBytes | None
    start: int


def spot_of(tensor: StoredTensor) -> Spot | None:
    """Return where a tensor lies; None for one whose bytes are converted, or checked in a way of their own."""
    size = prod(tensor.shape) * tensor.dtype.itemsize
    found = _place_of(tensor, size)
    return Spot(found[0], found[1], size, *found[2:]) if found else None


def _place_of(tensor: StoredTensor, size: int) -> tuple[CheckpointFile, int, RecordBytes | None, int] | None:
    """Return the file, the offset, the record and the byte of it where all `size` bytes of a tensor lie, as `spot_of` does."""
    if not isinstance(tensor, TensorView) or tensor.strides is not None or tensor.swap or tensor.dtype is DType.BOOL:
        return None
    held = tensor.source
    if isinstance(held, FileBytes):
        window = held.window
        return window.file, window.checked(held.offset + tensor.offset, size), None, 0
    if isinstance(held, RecordBytes) and not held.is_packed and size == held.nbytes:
        window = held.archive.window
        return window.file, window.checked(held.located() + tensor.offset, size), held, tensor.offset
    return None


def read_many(
    tensors: Sequence[StoredTensor],
    starts: Sequence[int],
    sizes: Sequence[int],
    buffer: memoryview,
    read_alone: Callable[[int], None],
) -> None:
    """Fill `buffer` with whole tensors, each from its own of `starts` on.

    `read_alone` gets the number of one that needs more than a copy of bytes.
    """
    found: defaultdict[CheckpointFile, list[tuple[int, int, int]]] = defaultdict(list)
    records: list[tuple[RecordBytes, int, int, int]] = []
    for number, (tensor, start, size) in enumerate(zip(tensors, starts, sizes, strict=True)):
        place = _place_of(tensor, size)
        if place is None:
            read_alone(number)
            continue
        file, offset, record, first = place
        found[file].append((offset, start, size))
        if record is not None and not record.is_checked:
            records.append((record, first, start, size))
    for file, stretches in found.items():
        _read_stretches(file, sorted(stretches), buffer)
    for record, first, start, size in records:
        record.add(first, size, crc32(buffer[start : start + size], 0))


def _read_stretches(file: CheckpointFile, stretches: Sequence[tuple[int, int, int]], buffer: memoryview) -> None:
    """Read stretches (offset in the file, place in the buffer, size) in the order of the file."""
    between = memoryview(bytearray(GAP))
    run: list[memoryview] = []
    begin = end = low = high = 0  # of the run in the file, and of its last stretch in the buffer
    for offset, start, size in stretches:
        if offset == end and start == high:
            end, high = end + size, high + size
            continue
        if low < high:
            run.append(buffer[low:high])
        if run and 0 < offset - end <= GAP:
            run.append(between[: offset - end])
        elif offset != end:
            if run:
                file.read_run(run, begin)
            run, begin = [], offset
        end, low, high = offset + size, start, start + size
    if low < high:
        run.append(buffer[low:high])
        file.read_run(run, begin)


def read_together(
    pieces: Sequence[tuple[Spot | None, Piece]], read_alone: Callable[[str, str, memoryview, int], None]
) -> None:
    """Fill the buffer of each piece; `read_alone` reads one that needs more than a copy of bytes."""
    run: list[_Wanted] = []
    for spot, (network, key, start, buffer) in pieces:
        size = len(buffer)
        if spot is None or not 0 < size <= spot.size - start:
            read_alone(network, key, buffer, start)
            continue
        wanted = _Wanted(spot.file, spot.offset + start, buffer, spot.record, spot.start + start)
        if run and not _follows(run[-1], wanted):
            _read(run)
            run = []
        run.append(wanted)
    if run:
        _read(run)


def _follows(one: _Wanted, other: _Wanted) -> bool:
    """Return whether both may come with one call."""
    return one.file is other.file and 0 <= other.offset - one.offset - len(one.buffer) <= GAP


def _read(run: Sequence[_Wanted]) -> None:
    """Read a run of pieces that lie one after the other, and take checksums of those of zip records."""
    buffers: list[memoryview] = []
    at = run[0].offset
    between = memoryview(bytearray(GAP if len(run) > 1 else 0))
    for wanted in run:
        if wanted.offset > at:
            buffers.append(between[: wanted.offset - at])
        buffers.append(wanted.buffer)
        at = wanted.offset + len(wanted.buffer)
    run[0].file.read_run(buffers, run[0].offset)
    _add_checksums(run)


def _add_checksums(run: Sequence[_Wanted]) -> None:
    """Give each record the checksum of what was read of it, side by side pieces in one."""
    record: RecordBytes | None = None
    first = size = total = 0
    for wanted in run:
        if wanted.record is None or wanted.record.is_checked:
            continue
        if wanted.record is not record or wanted.start != first + size:
            if record is not None:
                record.add(first, size, total)
            record, first, size, total = wanted.record, wanted.start, 0, 0
        total = crc32(wanted.buffer, total)
        size += len(wanted.buffer)
    if record is not None:
        record.add(first, size, total)
