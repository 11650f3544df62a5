"""Runs of variable-length integers as an array, decoded when they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from torchgraft.core.dtypes import DType
    from torchgraft.reading.disk.files import Window

_LONGEST = 10


class Varints:
    """The numbers in `size` bytes at `at`, as elements of `dtype`: a storage. Takes ten times their bytes while read.

    Raises:
        CorruptCheckpointError: the last number has no end, or one is longer than 64 bits.
    """

    __slots__ = ("at", "dtype", "nbytes", "size", "window")

    def __init__(self, window: Window, at: int, size: int, dtype: DType) -> None:
        self.window = window
        self.at = at
        self.size = size
        self.dtype = dtype
        self.nbytes = len(self._ends(self._raw())) * dtype.itemsize

    @property
    def place(self) -> tuple[int, int]:
        """File number and offset of the first byte."""
        return self.window.place(self.at)

    def fill(self, buffer: memoryview, start: int) -> None:
        """Fill `buffer` from byte `start` on.

        Raises:
            CorruptCheckpointError: a number is none of the element type.
        """
        import numpy as np

        raw = self._raw()
        ends = self._ends(raw)
        first = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
        value = np.zeros(len(ends), dtype=np.uint64)
        for i in range(_LONGEST):
            more = np.flatnonzero(first + i <= ends)
            value[more] |= (raw[first[more] + i] & np.uint8(127)).astype(np.uint64) << np.uint64(7 * i)
        narrow = value.astype(f"<{'i' if self.dtype.kind == 'int' else 'u'}{self.dtype.itemsize}")
        if (narrow.astype(np.int64).view(np.uint64) != value).any():
            raise self.window.corrupt(f"the packed numbers at byte {self.at} don't fit the element type {self.dtype}")
        buffer[:] = narrow.view(np.uint8).data[start : start + len(buffer)]

    def _raw(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        import numpy as np

        return np.frombuffer(self.window.read(self.at, self.size), dtype=np.uint8)

    def _ends(self, raw: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        import numpy as np

        ends = np.flatnonzero(raw < 128)
        lengths = np.diff(ends, prepend=-1)
        if (len(raw) and (not len(ends) or ends[-1] != len(raw) - 1)) or (len(ends) and lengths.max() > _LONGEST):
            raise self.window.corrupt(
                f"truncated or false: the packed numbers at byte {self.at} don't end as they must"
            )
        return ends
