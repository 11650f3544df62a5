"""The end of a zip file: where its directory lies, said once or, in ZIP64, twice and alike."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchgraft.reading.disk.files import Window

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_SIGN = b"PK\5\6"
_TAIL = 65_535 + _END.size


@dataclass(frozen=True, slots=True)
class End:
    """Number of records, size and offset of the directory."""

    count: int
    size: int
    offset: int


def has_archive_at_end(window: Window) -> bool:
    """Return whether the last bytes are a sound end record, so that zip readers would take this for an archive."""
    if window.size < _END.size:
        return False
    tail = window.read(window.size - _END.size, _END.size)
    sign, disk, _, here, count, size, _, comment = _END.unpack(tail)
    if sign != _SIGN or disk or here != count or comment or size + _END.size > window.size:
        return False
    return count == 0 or b"PK\1\2" in window.read(max(window.size - _END.size - size - 98, 0), min(size + 98, 200))


def find_end(window: Window, warnings: list[str]) -> End:
    """Return where the directory lies.

    Raises:
        CorruptCheckpointError: there is no end record, it isn't at the end, or it contradicts itself.
    """
    start = max(window.size - _TAIL, 0)
    tail = window.read(start, window.size - start)
    at = _only_end(window, tail)
    _, disk, first, here, count, size, offset, comment = _END.unpack_from(tail, at)
    if disk or first or here != count:
        raise window.corrupt("zip end record: a part of a split archive, or its entries are counted twice unlike")
    if comment:
        warnings.append(f"the archive has a comment of {comment} bytes")
    plain = End(count, size, offset)
    position = start + at
    wide, position = _wide_end(window, plain, position)
    end = wide or plain
    if end.offset + end.size != position:
        raise window.corrupt(
            f"zip directory: {end.size} bytes at {end.offset} expected, but its end record lies at {position}; "
            "bytes before the archive, or truncated"
        )
    return end


def _only_end(window: Window, tail: bytes) -> int:
    """Return the position of the end record whose comment reaches the end of the file; there must be one."""
    fits, last, at = [], -1, tail.find(_SIGN)
    while at >= 0:
        last = at
        if at + _END.size <= len(tail) and at + _END.size + int.from_bytes(tail[at + 20 : at + 22], "little") == len(
            tail
        ):
            fits.append(at)
        at = tail.find(_SIGN, at + 1)
    if last < 0 or (not fits and last + _END.size > len(tail)):
        raise window.corrupt(f"truncated zip archive: no end record in {window.size} bytes")
    if len(fits) > 1 or (fits and last != fits[0]):
        raise window.corrupt("the archive's comment holds a second end record")
    if not fits:
        comment = int.from_bytes(tail[last + 20 : last + 22], "little")
        after = len(tail) - last - _END.size - comment
        if after < 0:
            raise window.corrupt(f"truncated zip archive: {-after} bytes of its comment are missing")
        raise window.corrupt(f"{after} bytes after the archive's end record")
    return fits[0]


def _wide_end(window: Window, plain: End, position: int) -> tuple[End | None, int]:
    """Return the ZIP64 end record, if there is one, and the position at which the directory must end."""
    at = position - _LOCATOR.size
    head = window.read(at, _LOCATOR.size) if at >= 0 else b""
    if not head.startswith(b"PK\6\7"):
        if plain.count == 0xFFFF or 0xFFFFFFFF in (plain.size, plain.offset):
            raise window.corrupt("zip end record asks for a ZIP64 record, which is missing")
        return None, position
    _, disk, where, disks = _LOCATOR.unpack(head)
    if disk or disks > 1 or not 0 <= where <= at - _END64.size:
        raise window.corrupt(f"ZIP64 locator points to byte {where}, which can't be")
    sign, length, _, _, _, _, here, count, size, offset = _END64.unpack(window.read(where, _END64.size))
    if sign != b"PK\6\6" or where + 12 + length != at or here != count:
        raise window.corrupt("ZIP64 end record is broken, or not where its locator says")
    wide = End(count, size, offset)
    pairs = ((plain.count, count, 0xFFFF), (plain.size, size, 0xFFFFFFFF), (plain.offset, offset, 0xFFFFFFFF))
    if any(short not in (full, mark) for short, full, mark in pairs):
        raise window.corrupt(f"ZIP64 and plain end record disagree: {wide} and {plain}")
    return wide, where
