"""The bytes behind a tensor."""

from __future__ import annotations

import ctypes
import mmap
import threading
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

HUGE = 2 << 20
_WORTH_HUGE = 4 << 20


def is_plain(tensor: torch.Tensor) -> bool:
    """Return whether the tensor's values are ordinary CPU memory that bytes can be moved to and from."""
    return tensor.is_cpu and _is_ordinary(tensor)


def is_away(tensor: torch.Tensor) -> bool:
    """Return whether the tensor's values are ordinary memory of a CUDA device, that bytes can be sent to."""
    return tensor.is_cuda and _is_ordinary(tensor) and not tensor.is_inference()


def _is_ordinary(tensor: torch.Tensor) -> bool:
    import torch

    return (
        (type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and not tensor.is_conj()
        and not tensor.is_neg()
    )


def bytes_of(tensor: torch.Tensor) -> Bytes:
    """Return the bytes of a plain contiguous tensor, as a view that can be written to."""
    import torch

    flat: Bytes = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return flat


def bytes_at(tensor: torch.Tensor) -> Bytes:
    """Return what `bytes_of` does in a fourth of its time; it may be used as long as the tensor lives."""
    size = tensor.nbytes
    return (
        np.frombuffer(memoryview((ctypes.c_ubyte * size).from_address(tensor.data_ptr())), np.uint8)
        if size
        else NOTHING
    )


NOTHING = np.empty(0, np.uint8)


def move(destination: int, origin: int, size: int) -> None:
    """Copy `size` bytes between addresses; other threads run meanwhile."""
    ctypes.memmove(destination, origin, size)


def ask_huge_pages(tensors: Iterable[torch.Tensor]) -> None:
    """Ask for 2 MiB pages behind memory that was never touched: a fault per 4 KiB costs more than reading the file.

    The system places large blocks side by side, so that one huge page may reach over the borders of several.
    """
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return
    page = mmap.PAGESIZE
    blocks = sorted((t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in tensors)
    merged: list[tuple[int, int]] = []
    for begin, end in blocks:
        start, stop = begin // page * page, -(-end // page) * page
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    libc = ctypes.CDLL(None)
    for start, stop in merged:
        if stop - start >= _WORTH_HUGE:
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(stop - start), mmap.MADV_HUGEPAGE)


def aligned(size: int) -> Bytes:
    """Return fresh memory that begins at the border of a huge page: else up to a thousand small ones stand around few huge ones."""
    memory = np.frombuffer(_anonymous(size + HUGE), np.uint8)
    first = -int(memory.ctypes.data) % HUGE
    return memory[first : first + size]


class Scratch:
    """Memory of each thread for one purpose or several, taken when it is first asked for and kept for the next time."""

    def __init__(self) -> None:
        self._own = threading.local()

    def room(self, size: int, purpose: str = "") -> Bytes:
        """Return `size` bytes of the calling thread: what lies there is what it left."""
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


def _anonymous(size: int) -> mmap.mmap:
    """Return private memory, with huge pages where the system has them."""
    if not hasattr(mmap, "MAP_ANONYMOUS"):
        return mmap.mmap(-1, size)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if size >= _WORTH_HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            memory.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # kernels without it
            return memory
    return memory
