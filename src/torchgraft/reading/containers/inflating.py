"""Compressed records of zip archives, read from front to back without keeping them: each byte is inflated once."""

from __future__ import annotations

import zlib
from threading import local

from torchgraft.core.system.checksums import crc32
from torchgraft.reading.containers.zipdir import ZipArchive

PIECE = 1 << 18
_OPEN = local()


def inflate_into(archive: ZipArchive, number: int, buffer: memoryview, start: int) -> None:
    """Fill `buffer` with the content of the compressed record `number` from byte `start` on.

    Each thread goes on where it stopped; whoever goes back, or to another record, begins anew. At the end of the record
    its size and checksum are compared.
    """
    run: Inflating | None = getattr(_OPEN, "run", None)
    _OPEN.run = None  # an error leaves nothing half read
    if run is None or run.archive is not archive or run.number != number or run.at > start:
        run = Inflating(archive, number)
    run.skip(start)
    run.fill(buffer)
    if run.at < run.entry.size:
        _OPEN.run = run


def check_inflated(archive: ZipArchive, number: int) -> None:
    """Read a compressed record to its end, for the sake of its checksum."""
    run = Inflating(archive, number)
    run.skip(run.entry.size)


class Inflating:
    """One way through a compressed record. `at` is the number of bytes that came out."""

    def __init__(self, archive: ZipArchive, number: int) -> None:
        self.archive = archive
        self.number = number
        self.entry = entry = archive.entries.at(number)
        self.at = 0
        self._engine = zlib.decompressobj(-15)
        self._next = archive.locate(entry)
        self._end = self._next + entry.packed
        self._crc = 0

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
        """Return at least one and at most `most` bytes, summed up; with the last one, compare size and checksum."""
        data = self._more(min(most, PIECE))
        if not data or self.at + len(data) > self.entry.size:
            raise self._another_size()
        self.at += len(data)
        self._crc = crc32(data, self._crc)
        if self.at == self.entry.size:
            if self._more(1) or not self._engine.eof or self._engine.unused_data or self._next < self._end:
                raise self._another_size()
            self.archive.check_crc(self.entry, self._crc)
        return data

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
