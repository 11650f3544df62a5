"""Records of zip archives as runs of bytes whose checksum is compared on the way, inflated where they are compressed."""

from __future__ import annotations

from threading import local

from torchgraft.core.system.checksums import Partial, Pieces, crc32
from torchgraft.reading.containers.zip_archive import Inflating, ZipArchive
from torchgraft.reading.containers.zip_directory import STORED, ZipEntry

PIECE = 1 << 20
MOST_READ_AGAIN = 64 << 20  # of a record that was read in part, to compare its checksum


class RecordBytes:
    """A record of a zip archive by its number, or its bytes from `skip` on. Its checksum is compared once all of it was read.

    The pieces may come in any order and from several threads. What is read again doesn't count again.
    """

    __slots__ = ("_at", "_checked", "_crc", "_pieces", "archive", "nbytes", "number", "skip")

    def __init__(self, archive: ZipArchive, number: int, skip: int, nbytes: int) -> None:
        self.archive = archive
        self.number = number
        self.skip = skip
        self.nbytes = nbytes
        self._at = -1
        self._crc = -1
        self._pieces: Pieces | None = None
        self._checked = archive.without_crc

    @property
    def entry(self) -> ZipEntry:
        """What the directory says of the record; made anew each time, as there may be a million records."""
        return self.archive.entries.at(self.number)

    @property
    def is_packed(self) -> bool:
        """Whether its bytes are compressed."""
        return bool(self.archive.compressed) and self.entry.method != STORED

    @property
    def position(self) -> tuple[int, int]:
        return self.archive.window.position(self.archive.entries.headers[self.number])

    def fill(self, buffer: memoryview, start: int) -> None:
        if self.is_packed:
            inflate_into(self.archive, self.entry, buffer, self.skip + start)
            return
        self.archive.window.read_into(buffer, self.located() + start)
        if not self._checked:
            self.add(start, len(buffer), crc32(buffer, 0))

    def located(self) -> int:
        """Return where its first byte lies in the archive's window, once its own header was compared."""
        if self._at < 0:
            entry = self.entry
            self._crc = entry.crc
            self._at = self.archive.locate(entry)
        return self._at + self.skip

    @property
    def is_checked(self) -> bool:
        """Whether there is nothing to be compared any more."""
        return self._checked

    @property
    def partial(self) -> Partial | None:
        """What was read of it; None where nothing was, or nothing is to be compared any more."""
        if self._checked or self._pieces is None:
            return None
        with self.archive.lock:
            return self._pieces.partial(self.skip + self.nbytes, self.skip)

    def agrees(self, checksum: int) -> bool:
        """Return whether the record has this checksum; nothing is to be compared any more then."""
        self._checked = self._checked or checksum == self.entry.crc
        return self._checked

    def check(self, limit: int = MOST_READ_AGAIN) -> None:
        """Compare the checksum of a record that is read in parts, once, unless it is larger than `limit`."""
        if self._checked:
            return
        if self.is_packed:
            Inflating(self.archive, self.entry).skip(self.skip + self.nbytes)
            self._checked = True
            return
        if self.nbytes > limit:
            return
        first = self.located() - self.skip
        end, total = self.skip + self.nbytes, 0
        buffer = memoryview(bytearray(min(PIECE, end)))
        for start in range(0, end, PIECE):
            piece = buffer[: min(PIECE, end - start)]
            self.archive.window.read_into(piece, first + start)
            total = crc32(piece, total)
        self.archive.check_crc(self.entry, total)
        self._checked = True

    def add(self, start: int, size: int, checksum: int) -> None:
        """Take in the checksum of a piece; compare the whole when nothing is missing."""
        if size == self.nbytes and not self.skip:
            self._compare(checksum)
            return
        with self.archive.lock:
            if self._pieces is None:
                self._pieces = Pieces()
                if self.skip:  # the checksum covers the bytes before `skip`, too
                    self._pieces.add(0, self.skip, crc32(self.archive.window.read(self._at, self.skip), 0))
            stop, total = self._pieces.add(self.skip + start, self.skip + start + size, checksum) or (0, 0)
        if stop == self.skip + self.nbytes:
            self._compare(total)

    def _compare(self, checksum: int) -> None:
        """Compare the checksum of all bytes, without looking the record up again."""
        if checksum != self._crc:
            self.archive.check_crc(self.entry, checksum)
        self._checked = True


_OPEN = local()


def inflate_into(archive: ZipArchive, entry: ZipEntry, buffer: memoryview, start: int) -> None:
    """Fill `buffer` with the content of a compressed record from byte `start` on.

    Each thread goes on where it stopped; whoever goes back, or to another record, begins anew. At the end of the record
    its size and checksum are compared.
    """
    run: Inflating | None = getattr(_OPEN, "run", None)
    _OPEN.run = None  # an error leaves nothing half read
    if run is None or run.archive is not archive or run.entry != entry or run.at > start:
        run = Inflating(archive, entry)
    run.skip(start)
    run.fill(buffer)
    if run.at < entry.size:
        _OPEN.run = run
