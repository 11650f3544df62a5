"""File objects that the caller opened: a BytesIO with a download in it, an open file."""

from __future__ import annotations

from contextlib import suppress
from io import TextIOBase
from threading import Lock
from typing import Any

from torchgraft.core.errors import CorruptCheckpointError, UnsupportedCheckpointError, UsageError, printable
from torchgraft.reading.disk.files import PIECE, CheckpointFile

_SEEK = Lock()  # one for all: two sources may share a file object


def is_handle(value: object) -> bool:
    """Return whether `value` looks like a file object, open or not."""
    return hasattr(value, "read") and (hasattr(value, "seek") or hasattr(value, "readinto"))


class GivenFile(CheckpointFile):
    """A file object as a checkpoint's file: read whole, from its first byte, wherever it stands.

    It stays the caller's: it isn't closed, and stands at last where it stood. Reads wait for each other, since they move it.
    """

    __slots__ = ("_at", "_handle")

    def __init__(self, handle: Any) -> None:
        """Look at the file object.

        Raises:
            UsageError: it is closed, gives texts, or can't be read from any place on.
            CorruptCheckpointError: its end can't be reached, as that of a broken compressed file.
        """
        self._handle = handle
        name = getattr(handle, "name", None)
        self.path = name if isinstance(name, str) and name else f"<{type(handle).__name__}>"
        self.fd, self.number = -1, 0
        self.companions = []
        if getattr(handle, "closed", False):
            raise UsageError(f"checkpoint is a file object that was closed ({printable(str(self))}): open it again")
        if isinstance(handle, TextIOBase):
            raise UsageError(f"{printable(str(self))} is open for text: open it with mode 'rb'")
        try:
            with _SEEK:
                self._at = handle.tell()
                handle.seek(0, 2)
                self.size = handle.tell()
                handle.seek(self._at)
        except MemoryError:
            raise
        except Exception as error:
            if not _is_seekable(handle):
                raise UsageError(
                    f"{printable(str(self))} can't be read from any place on ({_in_words(error)}): read all of it into "
                    "io.BytesIO first"
                ) from error
            raise CorruptCheckpointError(
                f"{printable(str(self))}: can't be read to its end: {_in_words(error)}"
            ) from error
        self.stamp = (self.size, 0, 0)

    def is_replaced(self) -> bool:
        """Whether another file stands in its place: never, it has none."""
        return False

    def folder(self, wanted: str) -> str:
        """Refuse to look for other files.

        Raises:
            UnsupportedCheckpointError: always; a file object has no folder.
        """
        raise UnsupportedCheckpointError(
            f"{self}: a part of the checkpoint lies in another file ({printable(wanted)}), and a file object has no folder to "
            "find it in: give the path"
        )

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` on.

        Raises:
            CorruptCheckpointError: it is shorter than when it was opened, or can't be read.
        """
        done = 0
        try:
            with _SEEK:
                self._handle.seek(offset)
                while done < len(buffer):
                    count = self._some(buffer[done : done + PIECE])
                    if not count:
                        break
                    done += count
        except MemoryError:
            raise
        except Exception as error:
            raise self.window().corrupt(f"can't be read any more: {_in_words(error)}") from error
        if done < len(buffer):
            raise self.window().corrupt(f"truncated or changed while reading, at byte {offset + done}")

    def _some(self, buffer: memoryview) -> int:
        """Fill the beginning of `buffer`, and return how much of it."""
        if hasattr(self._handle, "readinto"):
            return self._handle.readinto(buffer) or 0
        data = self._handle.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, count: int, offset: int) -> bytes:
        """Return `count` bytes from `offset` on.

        Raises:
            CorruptCheckpointError: as for `read_into`.
        """
        out = bytearray(count)
        self.read_into(memoryview(out), offset)
        return bytes(out)

    def _filled(self, buffers: object, offset: int, wanted: int) -> bool:  # noqa: ARG002  # no call fills several
        return False

    def compare_stamp(self) -> None:
        """Do nothing: a file object says no time of change."""

    def close(self) -> None:
        """Put it back where it stood, if the caller hasn't closed it."""
        with suppress(Exception), _SEEK:
            self._handle.seek(self._at)


def _is_seekable(handle: Any) -> bool:
    """Return whether a file object says that it can be read from any place on."""
    try:
        return bool(handle.seekable())
    except (AttributeError, OSError, ValueError):
        return False


def _in_words(error: Exception) -> str:
    """Return an error of a file object in words: decompressors, archives and clients raise errors of their own kinds."""
    return printable(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, 200)
