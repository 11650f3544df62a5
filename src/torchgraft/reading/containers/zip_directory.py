"""The directory of a zip archive in columns: what a million records say of themselves takes a few bytes each."""

from __future__ import annotations

import stat
import struct
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torchgraft.core.errors import CheckpointError
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
    """Return where the directory lies."""
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
        after = at + _END.size
        if after <= len(tail) == after + int.from_bytes(tail[at + 20 : at + 22], "little"):
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


STORED, DEFLATED = 0, 8
_OTHER_METHODS = {9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "zstd", 95: "xz"}
HIDDEN = 0x2041  # flags: encrypted, strongly encrypted, parts of the directory masked
FULL32 = 0xFFFFFFFF
_UNIX = 3
# The MS-DOS attribute of a folder, which some readers (miniz, and so torch) take at its word.
_FOLDER = 0x10
_CENTRAL_SIGN = b"PK\1\2"
_CENTRAL = "4sxB2xHH4x3I4H2x2I"
_ONE = struct.Struct("<" + _CENTRAL)
_RUN = 4096
# Bytes of the directory for each entry, and for all of them: names and notes may have 64 KiB, and a hole has no end.
_FREE, _EACH, _MOST = 16 << 20, 1024, 1 << 30


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
    """The records of an archive by name, in the directory's order; of equal names, the last is found.

    Each fact is a column: `crcs`, `packed` and `sizes` (bytes in the archive and without compression), `headers` (where
    the record begins), `methods`, `flags`. `names` has all names.
    """

    __slots__ = ("_numbers", "crcs", "flags", "headers", "methods", "names", "packed", "sizes")

    def __init__(self) -> None:
        self.names: list[str] = []
        self.methods, self.flags = array("H"), array("H")
        self.crcs = array("I")
        self.packed, self.sizes, self.headers = array("Q"), array("Q"), array("Q")
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Return the number of a record in the directory, -1 where there is none."""
        return self._numbers.get(name, -1)

    def at(self, number: int) -> ZipEntry:
        """Return the record of this number."""
        return ZipEntry(
            self.names[number],
            self.methods[number],
            self.flags[number],
            self.crcs[number],
            self.packed[number],
            self.sizes[number],
            self.headers[number],
        )

    def index(self) -> None:
        """Number all names that were read."""
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def __getitem__(self, name: str) -> ZipEntry:
        return self.at(self._numbers[name])

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def read_entries(window: Window, end: End) -> Entries:
    """Return the records of the directory."""
    if end.size > min(_FREE + _EACH * end.count, _MOST):
        raise window.too_large(
            f"zip directory of {end.size} bytes for {end.count} entries; at most {_EACH} each, and {_MOST} in all, are read"
        )
    head = window.read(end.offset, min(end.size, len(_CENTRAL_SIGN)))
    if end.size and head != _CENTRAL_SIGN:  # asked before all of it takes memory
        raise window.corrupt("zip directory: entry 0 is broken or truncated")
    raw = window.read(end.offset, end.size)
    found = Entries()
    at, run = 0, 1
    while at < len(raw):
        taken, at = _run(window, raw, at, found, run)
        run = min(2 * run, _RUN) if taken == run else 1
    if len(found.names) != end.count:
        raise window.corrupt(f"zip directory has {len(found.names)} entries, its end record says {end.count} entries")
    found.index()
    return found


def _run(window: Window, raw: bytes, at: int, found: Entries, most: int) -> tuple[int, int]:
    """Read up to `most` entries of equal length; return their number, and where the next one begins."""
    if not raw.startswith(_CENTRAL_SIGN, at) or at + _ONE.size > len(raw):
        raise window.corrupt(f"zip directory: entry {len(found.names)} is broken or truncated")
    lengths = _ONE.unpack_from(raw, at)[7:10]
    name_length, extra_length, note_length = lengths
    after = at + _ONE.size + sum(lengths)
    if after > len(raw):
        raise window.corrupt("zip directory: truncated entry")
    step = after - at
    count = min(most, (len(raw) - at) // step)
    whole = struct.Struct(f"<{_CENTRAL}{name_length}s{extra_length}s{note_length}x")
    rows = list(whole.iter_unpack(memoryview(raw)[at : at + count * step]))
    alike = 1
    while alike < count and rows[alike][0] == _CENTRAL_SIGN and rows[alike][7:10] == lengths:
        alike += 1
    del rows[alike:]
    _, _, flags, methods, crcs, packed, sizes, *_, disks, modes, headers, names, _ = zip(*rows, strict=True)
    plain = not (any(methods) or any(disks) or any(modes) or extra_length) and packed == sizes
    if not plain or max(sizes) == FULL32 or max(headers) == FULL32 or any(flag & HIDDEN for flag in set(flags)):
        rows = [_checked(window, row) for row in rows]
        packed, sizes, headers = zip(*rows, strict=True)
    found.names += _decoded(names)
    for column, values in (
        (found.flags, flags),
        (found.methods, methods),
        (found.crcs, crcs),
        (found.packed, packed),
        (found.sizes, sizes),
        (found.headers, headers),
    ):
        column.extend(values)
    return alike, at + alike * step


def _decoded(names: tuple[bytes, ...]) -> list[str]:
    """Return names as text; bytes that are no UTF-8 stay as they are, as half surrogates."""
    texts = b"\n".join(names).decode("utf-8", "surrogateescape").split("\n")
    if len(texts) == len(names):
        return texts
    return [name.decode("utf-8", "surrogateescape") for name in names]


def _checked(window: Window, row: tuple[Any, ...]) -> tuple[int, int, int]:
    """Return (packed, size, header) of an entry that has something out of the ordinary, once all of it was looked at."""
    _, system, flags, method, _, packed, size, _, _, _, disk, mode, header, raw_name, extra = row
    name = raw_name.decode("utf-8", "surrogateescape")
    if FULL32 in (packed, size, header):
        packed, size, header = _wide(window, name, extra, (packed, size, header))
    if extra:
        _check_fields(window, name, extra)
    if flags & HIDDEN or method not in (STORED, DEFLATED) or disk or (method == STORED and packed != size):
        raise _unusable(window, name, (flags, method, disk))
    if mode & _FOLDER and size:
        raise window.corrupt(
            f"record {name} holds {size} bytes, and is marked as a folder; readers take it as one or the other"
        )
    if system == _UNIX and stat.S_ISLNK(mode >> 16):
        raise window.unsafe(f"record {name} is a symlink, expected a file")
    return packed, size, header


def _unusable(window: Window, name: str, facts: tuple[int, int, int]) -> CheckpointError:
    flags, method, disk = facts
    if flags & HIDDEN:
        return window.corrupt(f"record {name} is marked as encrypted")
    if method in _OTHER_METHODS:
        return window.unsupported(
            f"record {name} is compressed with {_OTHER_METHODS[method]} (method {method}); pack it anew, stored or deflated"
        )
    if method not in (STORED, DEFLATED):
        return window.corrupt(
            f"record {name}: unknown compression, method {method}; expected 0 (stored) or 8 (deflate)"
        )
    if disk:
        return window.corrupt(f"record {name} says it lies on disk {disk} of a split archive")
    return window.corrupt(f"record {name}: stored, but its two sizes differ")


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
            wanted = [f for f in (size, packed, header) if f == FULL32]
            if length < 8 * len(wanted) or at + 4 + length > len(extra):
                break
            values = iter(struct.unpack_from(f"<{len(wanted)}Q", extra, at + 4))
            size, packed, header = (next(values) if f == FULL32 else f for f in (size, packed, header))
            return packed, size, header
        at += 4 + length
    raise window.corrupt(f"record {name}: its ZIP64 field is missing or too short")
