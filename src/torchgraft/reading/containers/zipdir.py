"""A strict reader of zip directories: what it accepts, every other reader understands the same way."""

from __future__ import annotations

import re
import stat
import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Mapping
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.core.checksums import crc32
from torchgraft.core.errors import (
    CorruptCheckpointError,
    LimitExceededError,
    UnsafeCheckpointError,
    UnsupportedCheckpointError,
)
from torchgraft.reading.containers.zipend import End, find_end

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchgraft.reading.disk.files import Window

STORED, DEFLATED = 0, 8
MAX_RATIO = 200
AHEAD = 32 << 10
_UNIX = 3
# The MS-DOS attribute of a folder, which some readers (miniz, and so torch) take at its word.
_FOLDER = 0x10
_HIDDEN = 0x2041  # flags: encrypted, strongly encrypted, parts of the directory masked
RATIO_FREE = 8 << 20
_CENTRAL = struct.Struct("<4sxB2xHH4x3I4H2x2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_FACTS = struct.Struct("<2HI3Q")
_SIZE, _SIZE_AT, _HEADER_AT = struct.Struct("<Q"), struct.calcsize("<2HIQ"), struct.calcsize("<2HI2Q")
_FULL32 = 0xFFFFFFFF
_OUTSIDE = re.compile(r"^/|\\|\0|(?:^|/)\.\.(?:/|$)|^[A-Za-z]:", re.MULTILINE)
_ODD_NAME = re.compile(rf"{_OUTSIDE.pattern}|(?:^|/)\.?/", re.MULTILINE)


class ZipEntry(NamedTuple):
    """One record as the central directory has it."""

    name: str
    method: int
    flags: int
    crc: int
    packed: int
    size: int
    header: int


class Entries(Mapping[str, ZipEntry]):
    """The records of an archive by name, in the directory's order, each packed into a few bytes: there may be a million."""

    __slots__ = ("_packed",)

    def __init__(self, found: list[ZipEntry]) -> None:
        self._packed = {e[0]: _FACTS.pack(*e[1:]) for e in found}

    def __getitem__(self, name: str) -> ZipEntry:
        return ZipEntry(name, *_FACTS.unpack(self._packed[name]))

    def size(self, name: str) -> int:
        """Return the size of a record, -1 where there is none."""
        packed = self._packed.get(name)
        return -1 if packed is None else int(_SIZE.unpack_from(packed, _SIZE_AT)[0])

    def header(self, name: str) -> int:
        """Return where the header of a record lies.

        Raises:
            KeyError: there is no such record.
        """
        return int(_SIZE.unpack_from(self._packed[name], _HEADER_AT)[0])

    def __contains__(self, name: object) -> bool:
        return name in self._packed

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


class ZipArchive:
    """An archive whose directory was checked; its records are checked against it as they are read."""

    __slots__ = ("_ahead", "_starts", "compressed", "entries", "lock", "warnings", "window", "without_crc")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.lock = Lock()
        self._ahead = (0, b"")
        self.warnings: list[str] = []
        end = find_end(window, self.warnings)
        found = _entries(window, end)
        self.entries = _unique(window, found)
        self._starts = _check_layout(window, found, end.offset)
        self.compressed = [e.name for e in found if e.method]
        self.without_crc = bool(found) and any(e.size for e in found) and not any(e.crc for e in found)
        _check_names(window, found)
        if self.without_crc:
            self.warnings.append("no record has a CRC: the values can't be checked")

    def locate(self, entry: ZipEntry) -> int:
        """Return the offset of the record's data, after comparing its local header with the directory.

        Raises:
            CorruptCheckpointError: the two differ.
        """
        raw = entry.name.encode("utf-8", "surrogateescape")
        head = self._header(entry, _LOCAL.size + len(raw))
        sign, _, flags, method, _, _, crc, packed, size, name_length, extra = _LOCAL.unpack_from(head)
        sizes = (crc, packed, size)
        later = flags & 8 and sizes == (0, 0, 0)
        large = (entry.crc, min(entry.packed, _FULL32), min(entry.size, _FULL32))
        same = later or sizes == large or (crc == entry.crc and sizes[1:] == (_FULL32, _FULL32))
        if sign != b"PK\3\4" or name_length != len(raw) or head[_LOCAL.size :] != raw:
            raise self.window.corrupt(f"local header of {entry.name}: has another name than the directory")
        if method != entry.method or (flags ^ entry.flags) & _HIDDEN or not same:
            raise self.window.corrupt(f"local header of {entry.name}: differs from the directory")
        data: int = entry.header + len(head) + extra
        if data + entry.packed > self._starts[bisect_right(self._starts, entry.header)]:
            raise self.window.corrupt(f"record {entry.name}: overlaps the next one")
        return data

    def _header(self, entry: ZipEntry, size: int) -> bytes:
        """Return the local header of a record. Those of small records that follow come along, for the next calls."""
        start, data = self._ahead
        at = entry.header - start
        if not 0 <= at <= len(data) - size:
            ahead = AHEAD if entry.packed < AHEAD else size
            data, at = self.window.read(entry.header, max(min(ahead, self.window.size - entry.header), size)), 0
            self._ahead = (entry.header, data)
        return data[at : at + size]

    def read(self, name: str, limit: int = 1 << 30) -> bytes:
        """Return the content of a record, its CRC checked.

        Raises:
            CheckpointError: the record is missing, too large, or broken.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise self.window.corrupt(f"record {name} is missing")
        if entry.size > limit:
            raise LimitExceededError(f"{self.window.label}: record {name} has {entry.size} bytes, the limit is {limit}")
        raw = self.window.read(self.locate(entry), entry.packed)
        data = raw if entry.method == STORED else inflate(raw, entry, self.window)
        self.check_crc(entry, crc32(data, 0))
        return data

    def head(self, entry: ZipEntry, count: int) -> bytes:
        """Return the first `count` bytes of a compressed record, or all there are."""
        raw = self.window.read(self.locate(entry), min(entry.packed, 2 * count))
        try:
            return zlib.decompressobj(-15).decompress(raw, count)
        except zlib.error as error:
            raise self.window.corrupt(f"record {entry.name}: broken compressed data ({error})") from error

    def check_crc(self, entry: ZipEntry, found: int) -> None:
        """Raise CorruptCheckpointError unless the checksum `found` is the recorded one, or none is recorded."""
        if found != entry.crc and not self.without_crc:
            raise self.window.corrupt(f"record {entry.name}: wrong CRC {found:08x}, expected {entry.crc:08x}")


def inflate(raw: bytes, entry: ZipEntry, window: Window) -> bytes:
    """Return the decompressed content; never more than the directory says."""
    engine = zlib.decompressobj(-15)
    try:
        data = engine.decompress(raw, entry.size + 1)
    except zlib.error as error:
        raise window.corrupt(f"record {entry.name}: broken compressed data ({error})") from error
    if len(data) != entry.size or not engine.eof or engine.unused_data:
        raise window.corrupt(f"record {entry.name}: decompresses to another size than {entry.size} bytes")
    return data


def _entries(window: Window, end: End) -> list[ZipEntry]:
    raw = window.read(end.offset, end.size)
    found: list[ZipEntry] = []
    at = 0
    while at < len(raw):
        if raw[at : at + 4] != b"PK\1\2" or at + _CENTRAL.size > len(raw):
            raise window.corrupt(f"zip directory: entry {len(found)} is broken or truncated")
        entry, at = _entry(window, raw, at)
        found.append(entry)
    if len(found) != end.count:
        raise window.corrupt(f"zip directory has {len(found)} entries, its end record says {end.count} entries")
    return found


def _entry(window: Window, raw: bytes, at: int) -> tuple[ZipEntry, int]:
    fields = _CENTRAL.unpack_from(raw, at)
    _, system, flags, method, crc, packed, size, name_length, extra_length, note, disk, mode, header = fields
    name_at = at + _CENTRAL.size
    extra_at = name_at + name_length
    after = extra_at + extra_length + note
    if after > len(raw):
        raise window.corrupt("zip directory: truncated entry")
    name = raw[name_at:extra_at].decode("utf-8", "surrogateescape")
    if _FULL32 in (packed, size, header):
        packed, size, header = _wide(window, name, raw[extra_at : extra_at + extra_length], (packed, size, header))
    folder = mode & _FOLDER and size
    if extra_length:
        _check_fields(window, name, raw[extra_at : extra_at + extra_length])
    if flags & _HIDDEN or method not in (STORED, DEFLATED) or disk or (method == STORED and packed != size) or folder:
        raise _unusable(window, name, (flags, method, disk, packed, size))
    if system == _UNIX and stat.S_ISLNK(mode >> 16):
        raise UnsafeCheckpointError(f"{window.label}: record {name} is a symlink, expected a file")
    return ZipEntry(name, method, flags, crc, packed, size, header), after


def _unusable(window: Window, name: str, facts: tuple[int, int, int, int, int]) -> CorruptCheckpointError:
    flags, method, disk, packed, size = facts
    if flags & _HIDDEN:
        return window.corrupt(f"record {name} is marked as encrypted")
    if method not in (STORED, DEFLATED):
        return window.corrupt(
            f"record {name}: unknown compression, method {method}; expected 0 (stored) or 8 (deflate)"
        )
    if disk:
        return window.corrupt(f"record {name} says it lies on disk {disk} of a split archive")
    if method == STORED and packed != size:
        return window.corrupt(f"record {name}: stored, but its two sizes differ")
    return window.corrupt(
        f"record {name} holds {size} bytes, and is marked as a folder; readers take it as one or the other"
    )


def _check_fields(window: Window, name: str, extra: bytes) -> None:
    """Refuse extra fields that reach beyond their place. Some programs fill it up with zeros, up to three of them."""
    at = 0
    while at + 4 <= len(extra):
        at += 4 + int.from_bytes(extra[at + 2 : at + 4], "little")
    if at > len(extra) or any(extra[at:]):
        raise window.corrupt(f"record {name}: its extra fields reach beyond their {len(extra)} bytes")


def _wide(window: Window, name: str, extra: bytes, fields: tuple[int, int, int]) -> tuple[int, int, int]:
    """Return (packed, size, header) with the 64-bit values of the ZIP64 extra field."""
    packed, size, header = fields
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wanted = [f for f in (size, packed, header) if f == _FULL32]
            if length < 8 * len(wanted) or at + 4 + length > len(extra):
                break
            values = iter(struct.unpack_from(f"<{len(wanted)}Q", extra, at + 4))
            size, packed, header = (next(values) if f == _FULL32 else f for f in (size, packed, header))
            return packed, size, header
        at += 4 + length
    raise window.corrupt(f"record {name}: its ZIP64 field is missing or too short")


def _unique(window: Window, found: list[ZipEntry]) -> Entries:
    entries = Entries(found)
    text = "\n".join(entries)
    if len(entries) != len(found) or (text != text.casefold() and len({e.casefold() for e in entries}) != len(found)):
        seen: set[str] = set()
        for entry in found:
            if entry.name.casefold() in seen:
                raise window.corrupt(f"duplicate record {entry.name} (names that differ in case only count as equal)")
            seen.add(entry.name.casefold())
    return entries


def _check_layout(window: Window, found: list[ZipEntry], directory: int) -> array[int]:
    """Return where the records' headers lie, in order, and the directory: a record ends before the next one begins."""
    order = sorted(found, key=lambda e: e.header)
    if order and order[0].header:
        raise window.corrupt(f"{order[0].header} bytes before the archive begins")
    _check_ratio(window, found)
    starts = array("Q", [e.header for e in order])
    starts.append(directory)
    for entry, end in zip(order, starts[1:], strict=True):
        if entry.header + _LOCAL.size + len(entry.name) + entry.packed > end:
            raise window.corrupt(f"record {entry.name}: overlaps another record or the directory")
    return starts


def _check_names(window: Window, found: list[ZipEntry]) -> None:
    if _ODD_NAME.search("\n".join([e.name for e in found])):
        for entry in found:
            if "\0" in entry.name:
                raise window.corrupt(f"record {entry.name!r}: NUL in its name")
            if _OUTSIDE.search(entry.name):
                raise UnsafeCheckpointError(
                    f"{window.label}: record {entry.name} leads outside the archive (../, an absolute path or a backslash)"
                )
            if _ODD_NAME.search(entry.name):
                raise window.corrupt(
                    f"record {entry.name}: its path has parts of no name, and means that of another record"
                )


def _check_ratio(window: Window, found: list[ZipEntry]) -> None:
    packed, size = sum(e.packed for e in found), sum(e.size for e in found)
    if size > RATIO_FREE and size > MAX_RATIO * max(packed, window.size):
        worst = max(found, key=lambda e: e.size / max(e.packed, 1))
        raise LimitExceededError(
            f"{window.label}: compression ratio of {size // max(packed, 1)} in all, record {worst.name} grows from "
            f"{worst.packed} to {worst.size} bytes; at most {MAX_RATIO} is read beyond {RATIO_FREE >> 20} MiB"
        )


def require(archive: ZipArchive, condition: bool, text: str) -> None:  # noqa: FBT001
    """Raise UnsupportedCheckpointError with `text` unless `condition` holds."""
    if not condition:
        raise UnsupportedCheckpointError(f"{archive.window.label}: {text}")
