"""The directory of a zip archive in columns: what a million records say of themselves takes a few bytes each."""

from __future__ import annotations

import stat
import struct
from array import array
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torchgraft.core.errors import LimitExceededError, UnsafeCheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchgraft.core.errors import CorruptCheckpointError
    from torchgraft.reading.containers.zipend import End
    from torchgraft.reading.disk.files import Window

STORED, DEFLATED = 0, 8
HIDDEN = 0x2041  # flags: encrypted, strongly encrypted, parts of the directory masked
FULL32 = 0xFFFFFFFF
_UNIX = 3
# The MS-DOS attribute of a folder, which some readers (miniz, and so torch) take at its word.
_FOLDER = 0x10
_SIGN = b"PK\1\2"
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
    """Return the records of the directory.

    Raises:
        LimitExceededError: the directory is out of all proportion to its entries.
        CorruptCheckpointError: the directory is broken, or a record is none that every reader understands the same way.
        UnsafeCheckpointError: a record is a symlink.
    """
    if end.size > min(_FREE + _EACH * end.count, _MOST):
        raise LimitExceededError(
            f"{window.label}: zip directory of {end.size} bytes for {end.count} entries; at most {_EACH} each, and {_MOST} in all, are read"
        )
    if end.size and not window.read(end.offset, min(end.size, len(_SIGN))) == _SIGN:  # before all of it takes memory
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
    if not raw.startswith(_SIGN, at) or at + _ONE.size > len(raw):
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
    while alike < count and rows[alike][0] == _SIGN and rows[alike][7:10] == lengths:
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
        raise UnsafeCheckpointError(f"{window.label}: record {name} is a symlink, expected a file")
    return packed, size, header


def _unusable(window: Window, name: str, facts: tuple[int, int, int]) -> CorruptCheckpointError:
    flags, method, disk = facts
    if flags & HIDDEN:
        return window.corrupt(f"record {name} is marked as encrypted")
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
