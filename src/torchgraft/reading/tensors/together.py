"""Many pieces at once: what lies side by side in a file comes with one system call."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torchgraft.core.checksums import crc32
from torchgraft.core.dtypes import DType
from torchgraft.reading.tensors.leaves import FileBytes, RecordBytes, View

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torchgraft.core.specs import Piece
    from torchgraft.reading.disk.files import CheckpointFile, Window
    from torchgraft.reading.tensors.leaves import Leaf

GAP = 4096  # reading on over what nobody wants costs less than another system call


class _Wanted(NamedTuple):
    """A piece whose bytes lie in a file as they are wanted: from `offset` on. `start` counts in its record, if any."""

    file: CheckpointFile
    offset: int
    buffer: memoryview
    record: RecordBytes | None
    start: int


def read_together(
    pieces: Sequence[tuple[Leaf, Piece]], read_alone: Callable[[str, str, memoryview, int], None]
) -> None:
    """Fill the buffer of each piece; `read_alone` does so for one whose bytes don't lie plainly in a file.

    Raises:
        CheckpointError: the bytes can't be read, or the checksum of a record is wrong.
    """
    run: list[_Wanted] = []
    for leaf, piece in pieces:
        wanted = _plain(leaf, piece)
        if wanted is None:
            read_alone(piece.network, piece.key, piece.buffer, piece.start)
            continue
        if run and not _follows(run[-1], wanted):
            _read(run)
            run = []
        run.append(wanted)
    if run:
        _read(run)


def _plain(leaf: Leaf, piece: Piece) -> _Wanted | None:
    """Return where a piece lies; None for one that is made of the file's bytes, or is checked in a way of its own."""
    size = len(piece.buffer)
    if not isinstance(leaf, View) or leaf.strides is not None or leaf.swap or leaf.dtype is DType.BOOL or not size:
        return None
    held = leaf.source
    start = leaf.offset + piece.start
    if isinstance(held, FileBytes):
        return _in(held.window, held.offset + start, piece.buffer, None, 0)
    if isinstance(held, RecordBytes) and not held.entry.method and leaf.is_whole:
        return _in(held.archive.window, held.located() + start, piece.buffer, held, start)
    return None


def _in(window: Window, at: int, buffer: memoryview, record: RecordBytes | None, start: int) -> _Wanted:
    return _Wanted(window.file, window.checked(at, len(buffer)), buffer, record, start)


def _follows(one: _Wanted, other: _Wanted) -> bool:
    """Return whether both may come with one call."""
    return one.file is other.file and 0 <= other.offset - one.offset - len(one.buffer) <= GAP


def _read(run: Sequence[_Wanted]) -> None:
    """Read a run of pieces that lie one after the other, and sum up those of zip records."""
    buffers: list[memoryview] = []
    at = run[0].offset
    for wanted in run:
        if wanted.offset > at:
            buffers.append(memoryview(bytearray(wanted.offset - at)))
        buffers.append(wanted.buffer)
        at = wanted.offset + len(wanted.buffer)
    run[0].file.read_run(buffers, run[0].offset)
    _sum_up(run)


def _sum_up(run: Sequence[_Wanted]) -> None:
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
