"""CRC-32 of bytes as zip files keep it, by the fastest means at hand, and of bytes that came in pieces."""

from __future__ import annotations

import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

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


class Partial(NamedTuple):
    """What was read of `size` bytes that have one checksum: `covered` of them, in the ranges that `ranges` stands for.

    `crc` is what these add to the checksum of all: those of readers who read each byte once, xor-ed, are that checksum.
    """

    size: int
    covered: int
    ranges: int
    crc: int


class Pieces:
    """The CRC-32 of a whole whose pieces come in any order. Not for several threads at once."""

    __slots__ = ("_starts", "_stops", "_sums")

    def __init__(self) -> None:
        self._starts: list[int] = []  # of runs in order, none of which touch
        self._stops: list[int] = []
        self._sums: list[int] = []

    def add(self, start: int, stop: int, checksum: int) -> tuple[int, int] | None:
        """Take in a piece; return (stop, checksum) of the run from byte 0 on.

        A piece that is covered already is left out; any other replaces what it overlaps.
        """
        starts, stops, sums = self._starts, self._stops, self._sums
        low = bisect_right(starts, start)
        if low and stop <= stops[low - 1]:
            return self._first()
        if low and start < stops[low - 1]:
            low -= 1
        high = bisect_left(starts, stop, low)
        if high < len(starts) and starts[high] == stop:
            checksum, stop = combined(checksum, sums[high], stops[high] - stop), stops[high]
            high += 1
        if low and stops[low - 1] == start:
            low -= 1
            start, checksum = starts[low], combined(sums[low], checksum, stop - start)
        starts[low:high], stops[low:high], sums[low:high] = [start], [stop], [checksum]
        return self._first()

    def partial(self, size: int, skip: int = 0) -> Partial:
        """Return what the pieces are of `size` bytes. A run that ends within the first `skip` bytes is left out."""
        covered = end = total = 0
        ranges = []
        for start, stop, checksum in zip(self._starts, self._stops, self._sums, strict=True):
            if stop > skip:
                total = combined(total, checksum, stop - end)
                covered, end = covered + stop - start, stop
                ranges.append((start, stop))
        return Partial(size, covered, hash(tuple(ranges)), combined(total, 0, size - end))

    def _first(self) -> tuple[int, int] | None:
        return (self._stops[0], self._sums[0]) if self._starts and not self._starts[0] else None
