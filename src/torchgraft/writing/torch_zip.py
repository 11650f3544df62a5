"""torch's own format: a zip archive with a pickle and one stored record for each storage, as torch.save lays it out.

Source of the zip layout: PKWARE's APPNOTE.TXT, sections 4.3 to 4.5. Source of records and alignment: PyTorchStreamWriter
in caffe2/serialize/inline_container.cc of pytorch. Beside torch's records there is `torchgraft.json`: digests and facts.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from torchgraft.core.facts import DIGESTS, as_texts
from torchgraft.core.system.commit import put
from torchgraft.writing.items import Item, Streamer
from torchgraft.writing.pickled import Stored, pickled

ROOT = "archive"
NOTES = "torchgraft.json"
_ALIGN = 64
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_UTF8 = 0x0800
_DATE = 0x21  # 1 January 1980, the earliest: equal input gives equal bytes
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")


class _Record(NamedTuple):
    """A record: its name, where its header and its data begin, how many bytes it has."""

    name: str
    header: int
    data: int
    size: int


class State(NamedTuple):
    """What the pickle holds besides tensors: names of one memory (name -> stored name), other values, versions."""

    names: Sequence[str]
    shared: Mapping[str, str]
    others: Mapping[str, object]
    versions: Mapping[str, object] | None


def write(
    handle: int, items: Sequence[Item], state: State, facts: Mapping[str, object], tick: Callable[[int], None]
) -> int:
    """Write `items` to a new file, under all names of `state` and in their order; return the number of bytes.

    Raises:
        UsageError: a value of the state that is neither a tensor nor plain data.
    """
    pickle = _pickle(items, state)
    archive = _Archive(handle)
    archive.add("data.pkl", pickle)
    archive.add("byteorder", b"little")
    archive.add(".storage_alignment", str(_ALIGN).encode())
    records = [archive.reserve(f"data/{number}", item.spec.nbytes) for number, item in enumerate(items)]
    sums = Streamer(handle, [(i, r.data) for i, r in zip(items, records, strict=True)], tick).run()
    for record, found in zip(records, sums, strict=True):
        archive.seal(record, found.crc)
    archive.add("version", b"3\n")
    digests = {item.name: found.sha256 for item, found in zip(items, sums, strict=True)}
    notes = {**as_texts(facts), DIGESTS: json.dumps(digests, separators=(",", ":"))}
    archive.add(NOTES, json.dumps(notes, separators=(",", ":")).encode())
    return archive.finish()


def check(items: Sequence[Item], state: State) -> None:
    """Refuse what the format can't hold, before anything is written.

    Raises:
        UsageError: a value of the state that is neither a tensor nor plain data.
    """
    _pickle(items, state)


def _pickle(items: Sequence[Item], state: State) -> bytes:
    stored = {item.name: Stored(str(number), item.spec) for number, item in enumerate(items)}
    table = OrderedDict(
        (name, state.others[name] if name in state.others else stored[state.shared.get(name, name)])
        for name in state.names
    )
    return pickled(table, state.versions)


class _Archive:
    """Writes records one after the other; the header of a record is written once its checksum is known."""

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._at = 0
        self._directory: list[bytes] = []

    def add(self, name: str, data: bytes) -> None:
        """Write a whole record."""
        record = self.reserve(name, len(data))
        put(self._handle, data, record.data)
        self.seal(record, zlib.crc32(data))

    def reserve(self, name: str, size: int) -> _Record:
        """Return a record with room for `size` bytes of data, aligned."""
        header = self._at
        least = header + _LOCAL.size + len(_path(name)) + len(_wide(size)) + 4
        record = _Record(name, header, -(-least // _ALIGN) * _ALIGN, size)
        self._at = record.data + size
        return record

    def seal(self, record: _Record, crc: int) -> None:
        """Write the header of a record, and note it for the directory."""
        name, wide = _path(record.name), _wide(record.size)
        size = _FULL32 if wide else record.size
        padding = record.data - record.header - _LOCAL.size - len(name) - len(wide)
        extra = wide + struct.pack("<2sH", b"FB", padding - 4) + b"Z" * (padding - 4)
        version = 45 if wide else 20
        local = _LOCAL.pack(b"PK\3\4", version, _UTF8, 0, 0, _DATE, crc, size, size, len(name), len(extra))
        put(self._handle, local + name + extra, record.header)
        far = record.header >= _FULL32
        more = (struct.pack("<2Q", record.size, record.size) if wide else b"") + (
            struct.pack("<Q", record.header) if far else b""
        )
        extra = struct.pack("<2H", 1, len(more)) + more if more else b""
        at = _FULL32 if far else record.header
        needs = 45 if more else 20
        sizes, attributes = (crc, size, size, len(name), len(extra)), (0, 0, 0, 0)
        entry = _CENTRAL.pack(b"PK\1\2", needs, needs, _UTF8, 0, 0, _DATE, *sizes, *attributes, at)
        self._directory.append(entry + name + extra)

    def finish(self) -> int:
        """Write the directory and return the size of the file."""
        start, count = self._at, len(self._directory)
        directory = b"".join(self._directory)
        self._at += put(self._handle, directory, start)
        if count >= _FULL16 or start >= _FULL32 or len(directory) >= _FULL32:
            end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), start)
            end += struct.pack("<4sIQI", b"PK\6\7", 0, self._at, 1)
            self._at += put(self._handle, end, self._at)
        short = min(count, _FULL16)
        sizes = (min(len(directory), _FULL32), min(start, _FULL32))
        self._at += put(self._handle, struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, short, short, *sizes, 0), self._at)
        return self._at


def _path(name: str) -> bytes:
    return f"{ROOT}/{name}".encode()


def _wide(size: int) -> bytes:
    """Return the extra field with 64-bit sizes, where they are needed."""
    return struct.pack("<2H2Q", 1, 16, size, size) if size >= _FULL32 else b""
