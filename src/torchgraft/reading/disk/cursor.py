"""Reading the head of a file front to back, in blocks, without holding the data that lies between."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchgraft.reading.disk.files import Window


class Cursor:
    """A place in a window. What is taken comes from a block of the file; what is skipped is never read."""

    __slots__ = ("_base", "_block", "_data", "at", "window")

    def __init__(self, window: Window, *, block: int = 1 << 20) -> None:
        self.window = window
        self.at = 0
        self._block = block
        self._data = b""
        self._base = 0

    @property
    def left(self) -> int:
        """The number of bytes from here to the end."""
        return self.window.size - self.at

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes.

        Raises:
            CorruptCheckpointError: the file has fewer.
        """
        start = self.at - self._base
        if start < 0 or start + count > len(self._data):
            self._base, start = self.at, 0
            size = count if count > self.left else min(max(count, self._block), self.left)
            self._data = self.window.read(self.at, size)
        self.at += count
        return self._data[start : start + count]

    def number(self, code: str, order: str = "<") -> Any:
        """Return the next number, of the type that `struct` calls `code`."""
        return struct.unpack(order + code, self.take(struct.calcsize(order + code)))[0]
