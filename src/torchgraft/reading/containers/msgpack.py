"""msgpack as data: maps, lists, texts and numbers; bytes stay in the file, extensions go to the caller.

Source of the format: https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torchgraft.core.errors import printable
from torchgraft.reading.disk.files import Cursor, Window

MAX_DEPTH = 64
MAX_NODES = 1_000_000
MAX_TEXT = 1 << 20
_SCALARS = {
    0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q",
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_SIZES = {
    0xC4: "B", 0xC5: "H", 0xC6: "I",  # bytes
    0xC7: "B", 0xC8: "H", 0xC9: "I",  # extensions
    0xD9: "B", 0xDA: "H", 0xDB: "I",  # text
    0xDC: "H", 0xDD: "I",  # lists
    0xDE: "H", 0xDF: "I",  # maps
}  # fmt: skip


class Blob(NamedTuple):
    """Bytes that were left in the file."""

    at: int
    size: int


class Unpacker:
    """Reads the one value of a window. `extension(kind, window, offset)` makes a value of an extension's window."""

    __slots__ = ("_base", "_cursor", "_extension", "_nodes", "window")

    def __init__(
        self, window: Window, extension: Callable[[int, Window, int], Any] | None = None, base: int = 0
    ) -> None:
        self.window = window
        self._cursor = Cursor(window, block=1 << 16)
        self._extension = extension
        self._nodes = 0
        self._base = base

    def value(self) -> Any:
        """Return the value."""
        out = self._next(0)
        if self._cursor.left:
            raise self.window.corrupt(f"{self._cursor.left} bytes come after the end of the msgpack value")
        return out

    def _next(self, depth: int) -> Any:
        cursor = self._cursor
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            what = f"a depth over {MAX_DEPTH}" if depth > MAX_DEPTH else f"more than {MAX_NODES} values"
            raise self.window.too_large(f"msgpack with {what}")
        byte = cursor.number("B")
        if byte < 0x80 or byte >= 0xE0:
            return byte if byte < 0x80 else byte - 256
        if byte in _CONSTANTS:
            return _CONSTANTS[byte]
        if byte in _SCALARS:
            return cursor.number(_SCALARS[byte], ">")
        if 0xD4 <= byte <= 0xD8:
            return self._ext(1 << byte - 0xD4)
        if byte < 0x90:
            return self._map(byte & 15, depth)
        if byte < 0xA0:
            return self._list(byte & 15, depth)
        if byte < 0xC0:
            return self._text(byte & 31)
        if byte not in _SIZES:
            raise self.window.corrupt(f"byte {cursor.at - 1} is {byte:#x}, which begins no msgpack value")
        return self._sized(byte, cursor.number(_SIZES[byte], ">"), depth)

    def _sized(self, byte: int, size: int, depth: int) -> Any:
        if byte <= 0xC6:
            return self._blob(size)
        if byte <= 0xC9:
            return self._ext(size)
        if byte <= 0xDB:
            return self._text(size)
        return self._list(size, depth) if byte <= 0xDD else self._map(size, depth)

    def _room(self, need: int, what: str) -> None:
        if need > self._cursor.left:
            raise self.window.corrupt(
                f"truncated: {what} at byte {self._cursor.at} needs {need} bytes, {self._cursor.left} are left"
            )

    def _text(self, size: int) -> str:
        self._room(size, "a text")
        if size > MAX_TEXT:
            raise self.window.too_large(f"a text of {size} bytes, {MAX_TEXT} are read at most")
        at = self._cursor.at
        try:
            return self._cursor.take(size).decode()
        except UnicodeDecodeError as error:
            raise self.window.corrupt(f"the text at byte {at} is not UTF-8") from error

    def _blob(self, size: int) -> Blob:
        self._room(size, "a run of bytes")
        at = self._cursor.at
        self._cursor.at += size
        return Blob(at, size)

    def _ext(self, size: int) -> Any:
        kind = self._cursor.number("b")
        self._room(size, f"an extension of type {kind}")
        at = self._cursor.at
        self._cursor.at += size
        if self._extension is None:
            raise self.window.corrupt(f"an extension of type {kind} at byte {self._base + at}, where none belongs")
        return self._extension(kind, self.window.part(at, size), at)

    def _list(self, count: int, depth: int) -> list[Any]:
        self._room(count, f"a list of {count} values")
        return [self._next(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[Any, Any]:
        self._room(2 * count, f"a map of {count} entries")
        out: dict[Any, Any] = {}
        for _ in range(count):
            key = self._next(depth + 1)
            if not isinstance(key, (str, int)):
                raise self.window.corrupt(
                    f"a key of type {type(key).__name__} before byte {self._cursor.at}, expected text"
                )
            if key in out:
                raise self.window.corrupt(f"duplicate key {printable(str(key))}")
            out[key] = self._next(depth + 1)
        return out
