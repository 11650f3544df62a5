"""The wire format of protocol buffers: fields of a message by number, without a schema and without copying data.

Source of the format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torchgraft.reading.disk.files import Cursor, Window

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 2_000_000
MOST_NUMBERS = 1 << 12  # bytes of numbers in one field: as many as dimensions can take
_BLOCK = 1 << 16


class Span(NamedTuple):
    """Where bytes lie in the file: a message, a text or data."""

    at: int
    size: int


class Messages:
    """Reads the messages of one file. All share one block of it and one count of fields."""

    __slots__ = ("_cursor", "_fields", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self._cursor = Cursor(window, block=_BLOCK)
        self._fields = 0

    def fields(self, span: Span) -> Iterator[tuple[int, int, int, Span]]:
        """Yield (number, wire type, value, span) of each field of the message at `span`.

        The value is that of a varint, 0 for others; the span covers the payload.
        """
        at, end = span.at, span.at + span.size
        while at < end:
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise self.window.too_large(f"more than {MAX_FIELDS} protobuf fields")
            key, after = self._varint(at, end)
            number, wire = key >> 3, key & 7
            if not 0 < number < 1 << 29:
                raise self.window.corrupt(f"no protobuf message: a field has the number {number} at byte {at}")
            if wire == VARINT:
                value, stop = self._varint(after, end)
                yield number, wire, value, Span(after, stop - after)
                at = stop
                continue
            if wire == BYTES:
                size, after = self._varint(after, end)
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
            else:
                raise self.window.corrupt(
                    f"protobuf field {number} at byte {at} has the wire type {wire}, which none has"
                )
            if size > end - after:
                raise self.window.corrupt(
                    f"truncated or false: protobuf field {number} at byte {at} has {size} bytes, its message {end - after}"
                )
            yield number, wire, 0, Span(after, size)
            at = after + size

    def text(self, span: Span, limit: int = 1 << 16) -> str:
        """Return a text field of at most `limit` bytes; one that isn't UTF-8 is corrupt."""
        if span.size > limit:
            raise self.window.too_large(f"{span.size} bytes at byte {span.at}, {limit} are read at most")
        self._cursor.at = span.at
        try:
            return self._cursor.take(span.size).decode()
        except UnicodeDecodeError as error:
            raise self.window.corrupt(f"the text at byte {span.at} is not UTF-8") from error

    def integers(self, wire: int, value: int, span: Span) -> list[int]:
        """Return the signed 64-bit numbers of a repeated field, packed or not, `MOST_NUMBERS` bytes at most."""
        if wire == VARINT:
            return [signed(value)]
        if span.size > MOST_NUMBERS:
            raise self.window.too_large(f"{span.size} bytes of numbers at byte {span.at}, at most {MOST_NUMBERS}")
        out, at = [], span.at
        while at < span.at + span.size:
            number, at = self._varint(at, span.at + span.size)
            out.append(signed(number))
        return out

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """Return the number at `at` and the place after it."""
        self._cursor.at = at
        raw = self._cursor.take(min(10, end - at))
        value = 0
        for i, byte in enumerate(raw):
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value & (1 << 64) - 1, at + i + 1
        raise self.window.corrupt(f"truncated or false: no number ends within the message at byte {at}")


def signed(value: int) -> int:
    """Return an unsigned 64-bit number as the signed one of the same bits."""
    return value - (1 << 64) if value >> 63 else value
