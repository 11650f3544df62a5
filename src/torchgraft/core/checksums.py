"""CRC-32 of bytes as zip files keep it, by the fastest means at hand, and of bytes that came in pieces."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31


def _fastest() -> Callable[[memoryview | bytes, int], int]:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib.crc32
    found: Callable[[memoryview | bytes, int], int] = isal_zlib.crc32
    return found


crc32 = _fastest()


def combined(first: int, second: int, size: int) -> int:
    """Return the CRC-32 of bytes with checksum `first`, followed by `size` bytes with checksum `second`.

    Appending a zero byte multiplies the checksum, seen as a polynomial over GF(2), by x^8 (as zlib's crc32_combine does).
    """
    return _product(_power(size), first) ^ second


@lru_cache(maxsize=256)
def _power(size: int) -> int:
    """Return x^(8 * size) modulo the polynomial; the highest bit is the coefficient of x^0."""
    result, square = _ONE, _ONE >> 8
    while size:
        if size & 1:
            result = _product(square, result)
        square = _product(square, square)
        size >>= 1
    return result


def _product(a: int, b: int) -> int:
    """Return the product of two polynomials modulo the polynomial of CRC-32."""
    result, bit = 0, _ONE
    while bit:
        if a & bit:
            result ^= b
        b = (b >> 1) ^ _POLYNOMIAL if b & 1 else b >> 1
        bit >>= 1
    return result


class Pieces:
    """The CRC-32 of a whole whose pieces come in any order. Not for several threads at once."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: dict[int, tuple[int, int]] = {}  # start -> stop, checksum

    def add(self, start: int, stop: int, checksum: int) -> tuple[int, int] | None:
        """Take in a piece; return (stop, checksum) of the run from byte 0 on.

        A piece of which everything is there is left out; else it replaces what it overlaps.
        """
        for begin, (end, _) in list(self._runs.items()):
            if begin <= start and stop <= end:
                return self._runs.get(0)
            if start < end and begin < stop:
                del self._runs[begin]
        for begin, (end, before) in self._runs.items():
            if end == start:
                start, checksum = begin, combined(before, checksum, stop - start)
                break
        after = self._runs.pop(stop, None)
        if after is not None:
            checksum, stop = combined(checksum, after[1], after[0] - stop), after[0]
        self._runs[start] = (stop, checksum)
        return self._runs.get(0)
