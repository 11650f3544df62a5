"""The bytes behind a tensor: views of them, memory to read into, many small stretches moved at once."""

from __future__ import annotations

import ctypes
import mmap
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from torchgraft.core.layout import is_ordinary

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray


Bytes: TypeAlias = "NDArray[np.uint8]"

HUGE = 2 << 20
_WORTH_HUGE = 4 << 20


def is_plain(tensor: torch.Tensor) -> bool:
    """Return whether the tensor's values are ordinary CPU memory that bytes can be moved to and from."""
    return tensor.is_cpu and is_ordinary(tensor)


def is_on_cuda(tensor: torch.Tensor) -> bool:
    """Return whether the tensor's values are ordinary memory of a CUDA device, that bytes can be sent to."""
    return tensor.is_cuda and is_ordinary(tensor) and not tensor.is_inference()


def bytes_at(tensor: torch.Tensor) -> Bytes:
    """Return the bytes of a plain contiguous tensor, as a view that can be written to, for as long as the tensor lives.

    This takes a fourth of the time of asking torch for an array.
    """
    size = tensor.nbytes
    return (
        np.frombuffer(memoryview((ctypes.c_ubyte * size).from_address(tensor.data_ptr())), np.uint8)
        if size
        else NOTHING
    )


NOTHING = np.empty(0, np.uint8)


def invalidate(values: torch.Tensor) -> None:
    """Fill values with NaN, or with zeros where their type has no NaN."""
    import torch

    filler = float("nan") if values.is_floating_point() or values.is_complex() else 0
    values.copy_(torch.tensor(filler, device="cpu"))  # fill_() can't do types of one byte before torch 2.5


def move(destination: int, origin: int, size: int) -> None:
    """Copy `size` bytes between addresses; other threads run meanwhile."""
    ctypes.memmove(destination, origin, size)


def fresh(size: int, least: int = 0) -> mmap.mmap:
    """Return private memory that was never touched, from `least` bytes on with 2 MiB pages behind it where there are such.

    A fault for each 4 KiB costs more than reading the file. What an allocator gives won't do: it keeps notes in front of each
    block, and where a byte was touched the pages are small already. Such mappings lie side by side, and are one to the system
    then, so that a huge page may reach over the borders of several.

    Raises:
        OSError: there is no memory.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= least and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # kernels without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def aligned(size: int) -> Bytes:
    """Return fresh memory that begins at the border of a huge page, so that no thousand small pages surround few huge ones."""
    memory = np.frombuffer(fresh(size + HUGE, _WORTH_HUGE), np.uint8)
    first = -int(memory.ctypes.data) % HUGE
    return memory[first : first + size]


class Scratch:
    """Memory of each thread for one purpose or several, taken when it is first asked for and kept for the next time."""

    def __init__(self) -> None:
        self._own = threading.local()

    def take(self, size: int, purpose: str = "") -> Bytes:
        """Return `size` bytes that belong to the calling thread, with whatever it left there."""
        mine: dict[str, Bytes] = self._own.__dict__
        found = mine.get(purpose)
        if found is None or found.size < size:
            found = mine[purpose] = aligned(size)
        return found[:size]


class Arena:
    """Scratch memory of a fixed size, taken from the system at once and given back at once."""

    def __init__(self, size: int) -> None:
        self._bytes = aligned(size)
        self._next = int(self._bytes.ctypes.data)
        self._end = self._next + size

    def take(self, size: int) -> int:
        """Return the address of `size` fresh bytes.

        Raises:
            MemoryError: the arena is used up.
        """
        address = self._next
        if address + size > self._end:
            raise MemoryError("the undo arena is used up")
        self._next = address + (size + 63) // 64 * 64
        return address


def _memmove() -> Any:
    """Return C's memmove as a function that keeps the interpreter locked: for a few bytes, letting go costs more."""
    try:
        found = ctypes.PyDLL(None).memmove
    except (AttributeError, TypeError, OSError):  # pragma: no cover  Windows
        return ctypes.memmove
    found.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    found.restype = None
    return found


_move = _memmove()


def gather(addresses: Iterable[int], sizes: Sequence[int], into: int) -> None:
    """Copy stretches of memory, `sizes` bytes from each of `addresses`, side by side to what begins at `into`."""
    move = _move
    for to, origin, size in zip(accumulate(sizes, initial=into), addresses, sizes):  # noqa: B905  # the last sum is the end
        move(to, origin, size)


def scatter(origin: int, addresses: Iterable[int], sizes: Sequence[int]) -> None:
    """Copy what lies side by side from `origin` on to stretches of memory, `sizes` bytes to each of `addresses`."""
    move = _move
    for at, address, size in zip(accumulate(sizes, initial=origin), addresses, sizes):  # noqa: B905  # the last sum is the end
        move(address, at, size)
