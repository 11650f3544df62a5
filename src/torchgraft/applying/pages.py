"""Private mappings of files as memory: pages come from the file when they are used, and what is written stays here.

A tensor that is joined from several places of a file can be mapped, too: each place is mapped to where its bytes belong,
if its offset in the file and its place in the tensor are the same within a page. Only the pages in which two places meet
are memory of their own.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from torchgraft.core.errors import CorruptCheckpointError
from torchgraft.core.specs import Extent

PAGE = mmap.PAGESIZE
PIECE = 16 << 20  # of what is made ready at a time
THREADS = 2  # as many reach what memory can do
CAN_JOIN = sys.platform == "linux" and sys.maxsize > 1 << 32
_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14, which Python's mmap doesn't name
_FIXED = 0x10  # MAP_FIXED of Linux


class FileRange(NamedTuple):
    """Bytes of a file that are bytes `at` and following of a tensor."""

    at: int
    extent: Extent


def file_map(fd: int) -> mmap.mmap:
    """Return all of an open file as private memory that can be written to.

    Raises:
        OSError: the system maps no such file, or no so large one.
    """
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(fd, 0, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_NORESERVE", 0)  # only what is written will need memory
    return mmap.mmap(fd, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def joins(file_ranges: Sequence[FileRange]) -> bool:
    """Return whether places of a file can be mapped one behind the other."""
    return CAN_JOIN and len({(extent.offset - at) % PAGE for at, extent in file_ranges}) == 1


def joined_map(file_ranges: Sequence[FileRange]) -> tuple[mmap.mmap, int]:
    """Return memory in which the ranges, which follow each other and `joins`, lie one behind the other, and where.

    Raises:
        OSError: the system has no room for so many mappings.
        CorruptCheckpointError: the file is shorter than it was.
    """
    lead = file_ranges[0].extent.offset % PAGE
    end = lead + file_ranges[-1].at + file_ranges[-1].extent.size
    memory = mmap.mmap(-1, _up(end), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = address_of(memory)
    apart: list[tuple[int, int, Extent]] = []
    for number, (at, extent) in enumerate(file_ranges):
        start, stop = lead + at, lead + at + extent.size
        low = 0 if number == 0 else _up(start)
        high = _up(stop) if number == len(file_ranges) - 1 else stop // PAGE * PAGE
        if low >= high:
            apart.append((start, stop, extent))
            continue
        _map_at(base + low, high - low, extent.fd, extent.offset + low - start)
        apart += [(start, low, extent)] if start < low else []
        apart += [(high, stop, extent._replace(offset=extent.offset + high - start))] if high < stop else []
    view = memoryview(memory)
    for start, stop, extent in apart:
        if os.preadv(extent.fd, [view[start:stop]], extent.offset) != stop - start:
            raise CorruptCheckpointError(f"the file ends before byte {extent.offset + stop - start}: it has changed")
    return memory, lead


def make_ready(ranges: Iterable[tuple[int, int]], tick: Callable[[int], None], between: Callable[[], None]) -> None:
    """Have the system bring in the pages of mapped memory (address, size), by two threads.

    `tick` hears how many bytes are ready, from any thread; `between` is called now and then, and may raise.

    Raises:
        CorruptCheckpointError: the file is shorter than it was, or can't be read.
    """

    def ready(piece: tuple[int, int]) -> None:
        _populate(*piece)
        tick(piece[1])

    with ThreadPoolExecutor(THREADS, "torchgraft-pages") as pool:
        for _ in pool.map(ready, _pieces(ranges)):
            between()


def _pieces(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the ranges in pieces, those that follow each other within a page as one."""
    start = stop = 0
    for low, size in sorted(ranges):
        if low > stop + PAGE:
            yield from _cut(start, stop)
            start, stop = low, low
        stop = max(stop, low + size)
    yield from _cut(start, stop)


def _cut(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for low in range(start, stop, PIECE):
        yield low, min(PIECE, stop - low)


def _populate(address: int, size: int) -> None:
    """Bring in all pages of a range; systems without a call for that have each of them touched."""
    low = address // PAGE * PAGE
    libc = _libc()
    if libc is not None and not libc.madvise(low, _up(address + size) - low, _POPULATE_READ):
        return
    code = ctypes.get_errno() if libc is not None else errno.EINVAL
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise CorruptCheckpointError(
            f"pages of the file can't be read ({os.strerror(code)}): it was cut short, or its disk or network fails"
        )
    np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))[::PAGE].max()


def _map_at(address: int, size: int, fd: int, offset: int) -> None:
    libc = _libc()
    flags = mmap.MAP_PRIVATE | _FIXED
    given = libc.mmap(address, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, offset)
    if given != address:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _libc() -> Any:
    """Return the C library with the types of its calls, None where it is another one."""
    if not CAN_JOIN:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
    libc.mmap.restype = ctypes.c_void_p
    return libc


def address_of(memory: mmap.mmap) -> int:
    """Return the address of a mapping."""
    return int(np.frombuffer(memory, np.uint8).ctypes.data)


def _up(count: int) -> int:
    return -(-count // PAGE) * PAGE
