"""A strict reader of zip archives: what it accepts, every other reader understands the same way. Records are compared as they are read."""

from __future__ import annotations

import operator
import re
import struct
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import compress
from threading import Lock, local

from torchgraft.core.system.checksums import crc32
from torchgraft.reading.containers.zip_directory import (
    FULL32,
    HIDDEN,
    STORED,
    Entries,
    ZipEntry,
    find_end,
    read_entries,
)
from torchgraft.reading.disk.files import Window

MAX_RATIO = 200
AHEAD = 32 << 10
PIECE = 1 << 18  # of compressed data, and of what comes out of it
RATIO_FREE = 8 << 20
_LOCAL = struct.Struct("<4s5H3I2H")
# CRC and sizes of a record that was written to a stream: they follow its data, with ZIP64 or without.
_STATED_LATER = (0, 0, 0), (0, FULL32, FULL32)
_OUTSIDE = re.compile(r"^/|\\|\0|(?:^|/)\.\.(?:/|$)|^[A-Za-z]:", re.MULTILINE)
_ODD_NAME = re.compile(rf"{_OUTSIDE.pattern}|(?:^|/)\.?/", re.MULTILINE)
# One of these is in each odd name that a line break precedes; they are found far sooner.
_HINTS = re.compile(r"/\.*(?:/|\n|$)"), re.compile(r"\n(?:/|\.|[A-Za-z]:)"), re.compile(r"\\"), re.compile(r"\0")


class ZipArchive:
    """An archive whose directory was checked; its records are checked against it as they are read."""

    __slots__ = ("_ahead", "_starts", "compressed", "entries", "lock", "warnings", "window", "without_crc")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.lock = Lock()
        self._ahead = local()  # of each thread, as each reads another part of the file
        self.warnings: list[str] = []
        end = find_end(window, self.warnings)
        found = self.entries = read_entries(window, end)
        _check_unique(window, found)
        self._starts = _check_layout(window, found, end.offset)
        self.compressed = list(compress(found.names, found.methods))
        self.without_crc = any(found.sizes) and not any(found.crcs)
        _check_names(window, found)
        if self.without_crc:
            self.warnings.append("no record has a CRC: the values can't be checked")

    def locate(self, entry: ZipEntry) -> int:
        """Return the offset of the record's data, after comparing its local header with the directory."""
        raw = entry.name.encode("utf-8", "surrogateescape")
        head = self._header(entry, _LOCAL.size + len(raw))
        sign, _, flags, method, _, _, crc, packed, size, name_length, extra = _LOCAL.unpack_from(head)
        sizes = (crc, packed, size)
        later = flags & 8 and sizes in _STATED_LATER
        large = (entry.crc, min(entry.packed, FULL32), min(entry.size, FULL32))
        same = later or sizes == large or (crc == entry.crc and sizes[1:] == (FULL32, FULL32))
        if sign != b"PK\3\4" or name_length != len(raw) or head[_LOCAL.size :] != raw:
            raise self.window.corrupt(f"local header of {entry.name}: has another name than the directory")
        if method != entry.method or (flags ^ entry.flags) & HIDDEN or not same:
            here = (method, flags & HIDDEN, *sizes)
            there = (entry.method, entry.flags & HIDDEN, *large)
            raise self.window.corrupt(f"local header of {entry.name}: {_unlike(here, there)}")
        data: int = entry.header + len(head) + extra
        if data + entry.packed > self._starts[bisect_right(self._starts, entry.header)]:
            raise self.window.corrupt(f"record {entry.name}: overlaps the next one")
        return data

    def _header(self, entry: ZipEntry, size: int) -> bytes:
        """Return the local header of a record. Those of small records that follow come along, for the next calls."""
        start, data = getattr(self._ahead, "read", (0, b""))
        at = entry.header - start
        if not 0 <= at <= len(data) - size:
            ahead = AHEAD if entry.packed < AHEAD else size
            data, at = self.window.read(entry.header, max(min(ahead, self.window.size - entry.header), size)), 0
            self._ahead.read = (entry.header, data)
        return data[at : at + size]

    def read(self, name: str, limit: int = 1 << 30) -> bytes:
        """Return the content of a record, its CRC checked."""
        entry = self.entries.get(name)
        if entry is None:
            raise self.window.corrupt(f"record {name} is missing")
        if entry.size > limit:
            raise self.window.too_large(f"record {name} has {entry.size} bytes, the limit is {limit}")
        if entry.method != STORED:
            return Inflating(self, entry).whole()
        data = self.window.read(self.locate(entry), entry.packed)
        self.check_crc(entry, crc32(data, 0))
        return data

    def check_crc(self, entry: ZipEntry, found: int) -> None:
        """Raise CorruptCheckpointError unless the checksum `found` is the recorded one, or none is recorded."""
        if found != entry.crc and not self.without_crc:
            raise self.window.corrupt(f"record {entry.name}: wrong CRC {found:08x}, expected {entry.crc:08x}")


class Inflating:
    """One way through a compressed record. `at` is the number of bytes that came out."""

    def __init__(self, archive: ZipArchive, entry: ZipEntry) -> None:
        self.archive = archive
        self.entry = entry
        self.at = 0
        self._engine = zlib.decompressobj(-15)
        self._next = archive.locate(entry)
        self._end = self._next + entry.packed
        self._crc = 0

    def head(self, count: int) -> bytes:
        """Return the first `count` bytes, or all there are; nothing is compared."""
        data = self._more(count)
        while len(data) < count and (more := self._more(count - len(data))):
            data += more
        return data

    def whole(self) -> bytes:
        """Return the content of the record, once its size and checksum are compared."""
        out = bytearray(self.entry.size)
        self.fill(memoryview(out))
        if not out:
            self._compare()
        return bytes(out)

    def skip(self, to: int) -> None:
        """Go on to byte `to`."""
        while self.at < to:
            self._take(min(PIECE, to - self.at))

    def fill(self, buffer: memoryview) -> None:
        """Fill `buffer` with what comes next."""
        done = 0
        while done < len(buffer):
            data = self._take(len(buffer) - done)
            buffer[done : done + len(data)] = data
            done += len(data)

    def _take(self, most: int) -> bytes:
        """Return at least one and at most `most` bytes, and add them to the checksum; with the last one, compare size and checksum."""
        data = self._more(min(most, PIECE))
        if not data or self.at + len(data) > self.entry.size:
            raise self._another_size()
        self.at += len(data)
        self._crc = crc32(data, self._crc)
        if self.at == self.entry.size:
            self._compare()
        return data

    def _compare(self) -> None:
        """Compare size and checksum of what came out with what the directory says."""
        if self._more(1) or not self._engine.eof or self._engine.unused_data or self._next < self._end:
            raise self._another_size()
        self.archive.check_crc(self.entry, self._crc)

    def _more(self, most: int) -> bytes:
        """Return some bytes of output; none where there are no more."""
        engine, window = self._engine, self.archive.window
        raw = engine.unconsumed_tail  # output may be due even where this is empty
        while True:
            try:
                data = engine.decompress(raw, most)
            except zlib.error as error:
                raise window.corrupt(f"record {self.entry.name}: broken compressed data ({error})") from error
            if data or engine.eof or self._next == self._end:
                return data
            raw = window.read(self._next, min(PIECE, self._end - self._next))
            self._next += len(raw)

    def _another_size(self) -> Exception:
        size = self.entry.size
        return self.archive.window.corrupt(f"record {self.entry.name}: decompresses to another size than {size} bytes")


def _unlike(here: Sequence[int], there: Sequence[int]) -> str:
    """Return in words which facts of a record its local header and the directory state unlike."""
    facts = ("method", "flags of encryption", "CRC", "packed size", "size")
    pairs = zip(facts, here, there, strict=True)
    return ", ".join(f"its {fact} is {one}, in the directory {other}" for fact, one, other in pairs if one != other)


def _check_unique(window: Window, found: Entries) -> None:
    text = "\n".join(found.names)
    if len(found) == len(found.names) and (
        text == (folded := text.casefold()) or len(set(folded.split("\n"))) == len(found.names)
    ):
        return
    seen: set[str] = set()
    for name in found.names:
        if name.casefold() in seen:
            raise window.corrupt(f"duplicate record {name} (names that differ in case only count as equal)")
        seen.add(name.casefold())


def _check_layout(window: Window, found: Entries, directory: int) -> array[int]:
    """Return where the records' headers lie, in order, and the directory: a record ends before the next one begins."""
    headers, packed, names = found.headers, found.packed, found.names
    if not all(map(operator.lt, headers, headers[1:])):
        order = sorted(range(len(headers)), key=headers.__getitem__)
        headers, packed = (array("Q", [column[n] for n in order]) for column in (headers, packed))
        names = [names[n] for n in order]
    if headers and headers[0]:
        raise window.corrupt(f"{headers[0]} bytes before the archive begins")
    _check_ratio(window, found)
    starts = array("Q", headers)
    starts.append(directory)
    ends = map(operator.add, map(operator.add, headers, map(len, names)), packed)  # without what is fixed in a header
    for number, (end, limit) in enumerate(zip(ends, starts[1:], strict=True)):
        if end + _LOCAL.size > limit:
            raise window.corrupt(f"record {names[number]}: overlaps another record or the directory")
    return starts


def _check_names(window: Window, found: Entries) -> None:
    text = "\n" + "\n".join(found.names)
    if not any(hint.search(text) for hint in _HINTS):
        return
    for name in found.names:
        if "\0" in name:
            raise window.corrupt(f"record {name!r}: NUL in its name")
        if _OUTSIDE.search(name):
            raise window.unsafe(f"record {name} leads outside the archive (../, an absolute path or a backslash)")
        if _ODD_NAME.search(name):
            raise window.corrupt(f"record {name}: its path has parts of no name, and means that of another record")


def _check_ratio(window: Window, found: Entries) -> None:
    packed, size = sum(found.packed), sum(found.sizes)
    if size > RATIO_FREE and size > MAX_RATIO * max(packed, window.size):
        worst = max(found.values(), key=lambda e: e.size / max(e.packed, 1))
        raise window.too_large(
            f"compression ratio of {size // max(packed, 1)} in all, record {worst.name} grows from "
            f"{worst.packed} to {worst.size} bytes; at most {MAX_RATIO} is read beyond {RATIO_FREE >> 20} MiB"
        )
