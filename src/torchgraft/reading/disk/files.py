"""Files held open by one descriptor from check to use, and windows into them."""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from threading import Lock
from typing import Any

from torchgraft.core.errors import (
    CheckpointError,
    CorruptCheckpointError,
    LimitExceededError,
    MissingFileError,
    UnsafeCheckpointError,
    UnsupportedCheckpointError,
)
from torchgraft.core.formatting import suggestion

PIECE = 16 << 20
TRIES = 8
_MOST_BUFFERS = 1024  # of one system call (IOV_MAX of Linux)
_SEEK = Lock()
_MOST_NAMES = 1000  # among which one is looked for that was misspelt
_NUMBER = re.compile(r"\d+")
# owner/name or a name, without a file's ending
_HUB_NAME = re.compile(r"(?!.*\.[a-z]+5?\Z)(?:[\w-][\w.-]*/[\w.-]*\w|[A-Za-z][\w-]*)")


def shown(path: str) -> str:
    """Return `path` as messages show it: its end only where it is long."""
    return path if len(path) <= 100 else "…" + path[-99:]


class CheckpointFile:
    """A regular file, opened once. `number` orders the files of one checkpoint; `companions` close with it.

    `stamp` is its size, and the times (ns) of the last change of its content and of anything about it: nobody can set the
    latter back, and it changes, too, when another file takes the place of this one, which then stays as it was for who has it
    open.
    """

    __slots__ = ("companions", "fd", "number", "path", "size", "stamp")

    def __init__(
        self, path: str | os.PathLike[str], number: int = 0, opener: Callable[[int], int] | None = None
    ) -> None:
        self.path = os.fsdecode(path)
        self.number = number
        self.companions: list[CheckpointFile] = []
        self.fd = -1
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        facts = self._opened(opener or (lambda flags: os.open(path, flags)), flags)
        self.size = facts.st_size
        self.stamp = (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)

    def _opened(self, opener: Callable[[int], int], flags: int) -> os.stat_result:
        """Open the file that was looked at before: opening a device can act. One that was replaced is looked at again."""
        for _ in range(TRIES):
            try:
                before = os.stat(self.path)
                if not stat.S_ISREG(before.st_mode):
                    raise CorruptCheckpointError(f"{self}: not a regular file")
                self.fd = opener(flags)
                facts = os.fstat(self.fd)
            except (OSError, ValueError) as error:
                raise unreadable(self.path, error) from error
            if (facts.st_dev, facts.st_ino) == (before.st_dev, before.st_ino):
                return facts
            self.close()
        raise CorruptCheckpointError(f"{self}: other files took its place again and again while it was opened")

    def is_replaced(self) -> bool:
        """Whether another file stands at its path now."""
        try:
            facts = os.stat(self.path)
        except OSError:
            return True
        return (facts.st_size, facts.st_mtime_ns) != self.stamp[:2]

    def folder(self, wanted: str) -> str:  # noqa: ARG002  # who has no folder says what was wanted
        """Return the folder in which `wanted`, a file that belongs to it, is looked for."""
        return os.path.dirname(self.path) or "."

    def __str__(self) -> str:
        return shown(self.path)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` on, in pieces that leave other threads room."""
        done = 0
        try:
            while done < len(buffer):
                count = _read_at(self.fd, buffer[done : done + PIECE], offset + done)
                if count == 0:
                    raise CorruptCheckpointError(f"{self}: truncated or changed while reading, at byte {offset + done}")
                done += count
            self.compare_stamp()
        except OSError as error:
            raise unreadable(self.path, error) from error

    def read(self, count: int, offset: int) -> bytes:
        """Return `count` bytes from `offset` on."""
        if count <= PIECE and hasattr(os, "pread"):
            try:
                data = os.pread(self.fd, count, offset)
                if len(data) == count:
                    self.compare_stamp()
                    return data
            except OSError as error:
                raise unreadable(self.path, error) from error
        out = bytearray(count)
        self.read_into(memoryview(out), offset)
        return bytes(out)

    def read_run(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill one buffer after the other with what comes from `offset` on, in as few system calls as that takes."""
        for first in range(0, len(buffers), _MOST_BUFFERS):
            some = buffers[first : first + _MOST_BUFFERS]
            wanted = sum(map(len, some))
            if len(some) == 1 or not self._filled(some, offset, wanted):
                at = offset
                for buffer in some:
                    self.read_into(buffer, at)
                    at += len(buffer)
            offset += wanted

    def _filled(self, buffers: Sequence[memoryview], offset: int, wanted: int) -> bool:
        """Fill the buffers by one call, and return whether it gave all `wanted` bytes."""
        if not hasattr(os, "preadv"):
            return False
        try:
            if os.preadv(self.fd, buffers, offset) != wanted:
                return False
            self.compare_stamp()
        except OSError as error:
            raise unreadable(self.path, error) from error
        return True

    def compare_stamp(self) -> None:
        """Raise CorruptCheckpointError where the file is not what it was when it was opened."""
        facts = os.fstat(self.fd)
        if (facts.st_size, facts.st_mtime_ns) != self.stamp[:2]:
            raise CorruptCheckpointError(f"{self}: changed while reading (size or time of change is not what it was)")

    def window(self) -> Window:
        """Return the whole file as a window."""
        return Window(self, 0, self.size)

    def close(self) -> None:
        """Close the descriptor; closing twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        for file in self.companions:
            file.close()


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
        return self.file.read(count, self.checked(offset, count))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset` on."""
        self.file.read_into(buffer, self.checked(offset, len(buffer)))

    def part(self, offset: int, size: int, label: str = "") -> Window:
        """Return a window into this one."""
        return Window(self.file, self.checked(offset, size), size, f"{self.label}: {label}" if label else self.label)

    def position(self, offset: int) -> tuple[int, int]:
        """Return (file number, offset in the file) of a byte of this window."""
        return self.file.number, self.base + offset

    def corrupt(self, text: str) -> CorruptCheckpointError:
        """Return an error that names the file: what is in it is broken."""
        return CorruptCheckpointError(f"{self.label}: {text}")

    def unsupported(self, text: str) -> UnsupportedCheckpointError:
        """Return an error that names the file: it may be sound, and is of a kind that is not read."""
        return UnsupportedCheckpointError(f"{self.label}: {text}")

    def unsafe(self, text: str) -> UnsafeCheckpointError:
        """Return an error that names the file: to read it as meant would run code, or leave its folder."""
        return UnsafeCheckpointError(f"{self.label}: {text}")

    def too_large(self, text: str) -> LimitExceededError:
        """Return an error that names the file: it asks for more than any honest one."""
        return LimitExceededError(f"{self.label}: {text}")

    def checked(self, offset: int, count: int) -> int:
        """Return the place in the file of `count` bytes from `offset` on, all of which must lie in this window."""
        if not 0 <= offset <= offset + count <= self.size:
            raise self.corrupt(f"truncated: {count} bytes expected at byte {offset}, the file has {self.size}")
        return self.base + offset


def _read_at(fd: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    with _SEEK:  # pragma: no cover  Windows has no positioned read
        os.lseek(fd, offset, os.SEEK_SET)
        data = os.read(fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)


# What kind of error it is that the system raises; others are of a broken file.
_KINDS: dict[object, type[CheckpointError]] = {errno.ENOENT: MissingFileError, errno.EMFILE: CheckpointError}


def unreadable(path: str | os.PathLike[str], error: OSError | ValueError) -> CheckpointError:
    """Return an error that says in words why `path` can't be read."""
    code = getattr(error, "errno", None)
    words = {
        errno.ENOENT: "no such file or folder",
        errno.ELOOP: "the link leads to itself (a loop of symbolic links)",
        errno.EACCES: "permission denied",
        errno.EISDIR: "not a regular file but a folder",
        errno.ENXIO: "not a regular file",
        errno.EMFILE: "too many files are open at once: let this process open more (ulimit -n)",
    }
    text = words.get(code, "") if code is not None else ""
    if code == errno.ENOENT:
        text += _instead(os.fsdecode(path))
    kind = _KINDS.get(code, CorruptCheckpointError)
    return kind(f"{shown(os.fsdecode(path)) or repr('')}: {text or getattr(error, 'strerror', '') or error}")


def _instead(path: str) -> str:
    """Return what to do about a path at which nothing stands: the end of a sentence, "" where nothing is known."""
    if path == "-":
        return "; standard input is not read: give the path of a file"
    if "://" in path:
        return "; nothing is downloaded: fetch it first, and give its path"
    if path.startswith("~"):
        return "; ~ is not expanded: os.path.expanduser() does it"
    if os.path.exists(index := f"{path}.index.json"):
        return f"; its parts are named by {shown(os.path.basename(index))} beside it: give that one's path"
    if _HUB_NAME.fullmatch(path):
        return "; a model's name on a hub is not looked up: download it first, and give its folder"
    return _nearly_called(*os.path.split(path))


def _nearly_called(folder: str, name: str) -> str:
    """Return the file of a folder whose name comes closest; one with another number is not meant."""
    try:
        names = os.listdir(folder or ".")[:_MOST_NAMES]
    except OSError:
        return ""
    plain = _NUMBER.sub("", name)
    near = get_close_matches(name, names, cutoff=0.8)
    near += [one for one in names if one.casefold() == name.casefold()]
    return suggestion([one for one in near if _NUMBER.sub("", one) != plain][:1])


class Cursor:
    """A place in a window. What is taken comes from a block of the file; what is skipped is never read."""

    __slots__ = ("_base", "_block", "_data", "at", "window")

    def __init__(self, window: Window, *, block: int = 1 << 20) -> None:
        self.window = window
        self.at = 0
        self._block = block
        self._data = b""
        self._base = 0

    @property
    def left(self) -> int:
        """The number of bytes from here to the end."""
        return self.window.size - self.at

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        start = self.at - self._base
        if start < 0 or start + count > len(self._data):
            self._base, start = self.at, 0
            size = count if count > self.left else min(max(count, self._block), self.left)
            self._data = self.window.read(self.at, size)
        self.at += count
        return self._data[start : start + count]

    def number(self, code: str, order: str = "<") -> Any:
        """Return the next number, of the type that `struct` calls `code`."""
        return struct.unpack(order + code, self.take(struct.calcsize(order + code)))[0]
