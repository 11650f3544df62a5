"""Files held open by one descriptor from check to use, and windows into them."""

from __future__ import annotations

import errno
import os
import stat
from threading import Lock
from typing import TYPE_CHECKING

from torchgraft.core.errors import CheckpointError, CorruptCheckpointError, UnsafeCheckpointError

if TYPE_CHECKING:
    from pathlib import Path

PIECE = 16 << 20
_SEEK = Lock()


def shown(path: str) -> str:
    """Return `path` as messages show it: its end only where it is long."""
    return path if len(path) <= 100 else "…" + path[-99:]


class CheckpointFile:
    """A regular file, opened once. `number` orders the files of one checkpoint."""

    __slots__ = ("_stamp", "fd", "number", "path", "size")

    def __init__(self, path: str | os.PathLike[str], number: int = 0) -> None:
        self.path = os.fsdecode(path)
        self.number = number
        self.fd = -1
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  before open: opening a device can act
                raise CorruptCheckpointError(f"{self}: not a regular file")
            self.fd = os.open(path, flags)
            facts = os.fstat(self.fd)
        except (OSError, ValueError) as error:
            raise _unreadable(self.path, error) from error
        if not stat.S_ISREG(facts.st_mode):
            self.close()
            raise CorruptCheckpointError(f"{self}: not a regular file")
        self.size = facts.st_size
        self._stamp = (facts.st_size, facts.st_mtime_ns)

    def __str__(self) -> str:
        return shown(self.path)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` on, in pieces that leave other threads room.

        Raises:
            CorruptCheckpointError: the file is shorter than when it was opened, changed, or can't be read.
        """
        done = 0
        try:
            while done < len(buffer):
                count = _read_at(self.fd, buffer[done : done + PIECE], offset + done)
                if count == 0:
                    raise CorruptCheckpointError(f"{self}: truncated or changed while reading, at byte {offset + done}")
                done += count
            facts = os.fstat(self.fd)
        except OSError as error:
            raise _unreadable(self.path, error) from error
        if (facts.st_size, facts.st_mtime_ns) != self._stamp:
            raise CorruptCheckpointError(f"{self}: changed while reading (size or time of change is not what it was)")

    def window(self) -> Window:
        """Return the whole file as a window."""
        return Window(self, 0, self.size)

    def close(self) -> None:
        """Close the descriptor; closing twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Window:
    """A byte range of an open file; reads outside are refused before anything is allocated."""

    __slots__ = ("base", "file", "label", "size")

    def __init__(self, file: CheckpointFile, base: int, size: int, label: str = "") -> None:
        self.file = file
        self.base = base
        self.size = size
        self.label = label or str(file)

    def read(self, offset: int, count: int) -> bytes:
        """Return exactly `count` bytes from `offset` on."""
        out = bytearray(self._checked(offset, count))
        self.file.read_into(memoryview(out), self.base + offset)
        return bytes(out)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` on."""
        self._checked(offset, len(buffer))
        self.file.read_into(buffer, self.base + offset)

    def part(self, offset: int, size: int, label: str = "") -> Window:
        """Return a window into this one."""
        self._checked(offset, size)
        return Window(self.file, self.base + offset, size, f"{self.label}: {label}" if label else self.label)

    def place(self, offset: int) -> tuple[int, int]:
        """Return (file number, offset in the file) of a byte of this window."""
        return self.file.number, self.base + offset

    def corrupt(self, text: str) -> CorruptCheckpointError:
        """Return an error that names the file."""
        return CorruptCheckpointError(f"{self.label}: {text}")

    def _checked(self, offset: int, count: int) -> int:
        if not 0 <= offset <= offset + count <= self.size:
            raise self.corrupt(f"truncated: {count} bytes expected at byte {offset}, the file has {self.size}")
        return count


def open_inside(folder: str, name: str, number: int = 0) -> CheckpointFile:
    """Open the file `name` of `folder`, which must not lead out of it.

    Links may point inside the folder, or, as in a Hugging Face cache, from `snapshots/…` to the `blobs` beside it.

    Raises:
        UnsafeCheckpointError: the name or a link leads elsewhere.
    """
    path = os.path.join(folder, name)  # noqa: PTH118  pathlib would normalise what must be seen
    home = os.path.realpath(folder)
    real = os.path.realpath(path)
    if not _within(real, home) and not _within(real, _blobs(home)):
        kind = "" if os.path.isfile(real) or not os.path.exists(real) else ", and is not a regular file"  # noqa: PTH110, PTH113
        raise UnsafeCheckpointError(f"{shown(path)}: the link leads outside its folder, to {shown(real)}{kind}")
    return CheckpointFile(path, number)


def _within(path: str, folder: str) -> bool:
    return bool(folder) and path.startswith(folder.rstrip(os.sep) + os.sep)


def _blobs(home: str) -> str:
    parts = home.split(os.sep)  # noqa: PTH206  # bytes of a path, whatever it names
    if "snapshots" not in parts:
        return ""
    at = len(parts) - 1 - parts[::-1].index("snapshots")
    return os.sep.join([*parts[:at], "blobs"])  # noqa: PTH118  # as above


def _read_at(fd: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    with _SEEK:  # pragma: no cover  Windows has no positioned read
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _unreadable(path: str | Path, error: OSError | ValueError) -> CheckpointError:
    code = getattr(error, "errno", None)
    words = {
        errno.ENOENT: "no such file or folder",
        errno.ELOOP: "the link leads to itself (a loop of symbolic links)",
        errno.EACCES: "permission denied",
        errno.EISDIR: "not a regular file but a folder",
        errno.ENXIO: "not a regular file",
    }
    text = words.get(code, "") if code is not None else ""
    return CorruptCheckpointError(f"{shown(os.fsdecode(path))}: {text or error}")
