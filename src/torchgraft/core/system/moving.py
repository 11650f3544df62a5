"""Bytes moved between addresses: many small stretches of memory side by side in one, and back."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any


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
