"""A file appears whole at its place, or what stood there stays: write beside it, flush to disk, rename."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from torchgraft.core.errors import TorchgraftError, WriteError, printable

try:
    import fcntl
except ImportError:  # pragma: no cover  Windows, where a file that is open can't be removed anyway
    fcntl = None  # type: ignore[assignment]

_NO_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR)
_SEEK = threading.Lock()
_PART = re.compile(r"\.(.+)\.\d+\.[0-9a-f]{12}\.part", re.DOTALL)
_CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "the folder does not permit it",
    errno.EPERM: "the folder does not permit it",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "the folder does not exist",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EFBIG: "the file system does not take files that large",
    errno.EIO: "the disk reports an error",
}


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Give a file to write to; when the block ends well it stands at `path`, on disk, else nothing has changed.

    A symbolic link is followed: its target is replaced. A file that is replaced hands on its permissions; a new one
    gets those of the umask. Until the rename there is a hidden file beside the target, removed on any failure; one
    that a killed writer left there is removed by the next.

    Raises:
        WriteError: the file could not be written; what stood at its place is intact.
    """
    shown = _shown(path)
    try:
        final = os.path.realpath(path)
        mode = _mode_of(final, shown)
        folder, name = os.path.split(final)
        sweep(folder, name)
        temporary, handle = _open_beside(folder, name)
    except OSError as error:
        raise _refused(shown, error) from error
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            yield file
            os.fsync(file.fileno())
            if fcntl is not None:  # the lock that closing gives up keeps sweeps away until the file has its name
                os.replace(temporary, final)  # the path must stay as it was resolved
        if fcntl is None:  # pragma: no cover  Windows, where an open file can't be renamed
            os.replace(temporary, final)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise _refused(shown, error) from error
        raise
    flush_folder(folder, shown)


def expect_writable(path: str | os.PathLike[str]) -> None:
    """Raise what `whole_file` would before the first byte: for callers whose work takes long before there is anything to write.

    Raises:
        WriteError: the folder isn't there or doesn't permit it, or what stands at the place can't be replaced.
    """
    shown = _shown(path)
    try:
        final = os.path.realpath(path)
        _mode_of(final, shown)
        folder = os.path.dirname(final)
        os.stat(folder)
        code = errno.EROFS if _is_read_only(folder) else errno.EACCES
    except OSError as error:
        raise _refused(shown, error) from error
    if not os.access(folder, os.W_OK):
        raise _refused(shown, OSError(code, os.strerror(code)))


def _is_read_only(folder: str) -> bool:
    """Whether the file system of a folder takes no writes at all."""
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def _shown(path: str | os.PathLike[str]) -> str:
    return printable(os.fsdecode(path)) or "''"


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file of these bytes, whole or not at all.

    Raises:
        WriteError: as for `whole_file`.
    """
    with whole_file(path) as file:
        put(file.fileno(), data, 0)


def put(handle: int, data: bytes | memoryview, at: int) -> int:
    """Write all of `data` at byte `at` and return its length; a write may take less than it was given."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        count = _write_at(handle, view[done:], at + done)
        if count <= 0:
            raise WriteError("the disk takes no more bytes")
        done += count
    return done


def _write_at(handle: int, data: memoryview, at: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(handle, data, at)
    with _SEEK:  # pragma: no cover  Windows has no positioned write
        os.lseek(handle, at, os.SEEK_SET)
        return os.write(handle, data)


@contextmanager
def only_writer(folder: str, path: str) -> Iterator[None]:
    """Keep other writers of several files out of `folder`, where folders can be locked.

    Raises:
        WriteError: another one is at work there, or the folder can't be opened.
    """
    if fcntl is None:  # pragma: no cover
        yield
        return
    shown = printable(path)
    try:
        handle = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(shown, error) from error
    try:
        with suppress(OSError):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                said = f"{shown} can't be written: another program writes shards into this folder"
                raise WriteError(f"{said}; wait until it is done, or choose another folder") from error
        yield
    finally:
        os.close(handle)


def sweep(folder: str, name: str) -> None:
    """Remove what killed writers of `name` (or of names that begin like it) left in `folder`.

    A writer holds a lock on its hidden file as long as it lives, so a file that can be locked has lost its writer.
    """
    with suppress(OSError):
        for entry in os.listdir(folder or "."):
            match = _PART.fullmatch(entry)
            if match and match[1].startswith(_short(name)):
                _remove_if_dead(os.path.join(folder, entry))


def _remove_if_dead(path: str) -> None:
    with suppress(OSError):
        if fcntl is None:  # pragma: no cover
            _remove(path)
            return
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(path)
        finally:
            os.close(handle)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        os.unlink(path)


def _mode_of(final: str, shown: str) -> int | None:
    """Return the permissions of the file that is to be replaced, None where there is none."""
    try:
        facts = os.stat(final)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode):
        what = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
        raise WriteError(f"{shown} can't be written: it is {what}; give the path of a file")
    if not os.access(final, os.W_OK):
        raise WriteError(f"{shown} can't be written: it is write-protected; remove it or give another path")
    return stat.S_IMODE(facts.st_mode)


def _short(name: str) -> str:
    """Return as much of a name as leaves room for what a hidden file's name has besides."""
    return os.fsencode(name)[:120].decode(sys.getfilesystemencoding(), "ignore")


def _open_beside(folder: str, name: str) -> tuple[str, int]:
    """Create a hidden file in `folder` and lock it; return its path and descriptor."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    while True:
        temporary = os.path.join(folder, _hidden_name(name))
        handle = os.open(temporary, flags, 0o666)
        if _hold(handle):
            return temporary, handle
        os.close(handle)


@contextmanager
def hidden_folder(final: str, shown: str) -> Iterator[str]:
    """Give a new hidden folder beside `final`, locked as long as the block lasts, and removed if it fails.

    What killed writers of `final` left there is removed first.

    Raises:
        WriteError: it can't be made.
    """
    folder, name = os.path.split(final)
    try:
        sweep(folder, name)
        part, handle = _folder_beside(folder, name)
    except OSError as error:
        raise _refused(shown, error) from error
    try:
        yield part
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        if handle is not None:
            os.close(handle)


def _folder_beside(folder: str, name: str) -> tuple[str, int | None]:
    while True:
        part = os.path.join(folder, _hidden_name(name))
        os.mkdir(part)
        if fcntl is None:  # pragma: no cover
            return part, None
        try:
            handle = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:  # a sweep came first
            continue
        if _hold(handle) and os.path.isdir(part):  # on some file systems a removed folder keeps its links
            return part, handle
        os.close(handle)


def _hidden_name(name: str) -> str:
    return f".{_short(name)}.{os.getpid()}.{secrets.token_hex(6)}.part"


def _hold(handle: int) -> bool:
    """Lock a new file; return False where a sweep came first, took it for an orphan and removed it."""
    if fcntl is None:  # pragma: no cover
        return True
    with suppress(OSError):  # a file system without locks: no sweep happens there, either
        fcntl.flock(handle, fcntl.LOCK_EX)
    return os.fstat(handle).st_nlink > 0


def flush_folder(folder: str, shown: str) -> None:
    """Make a rename in `folder` durable, where folders can be flushed.

    Raises:
        WriteError: the disk failed; the new file stands there, but a power cut might undo it.
    """
    if os.name == "nt":
        return
    try:
        handle = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            text = f"{shown} is written, but the disk failed to note it in the folder ({error.strerror or error})"
            raise WriteError(f"{text}; a power cut might bring back what stood there before") from error


def cause_of(error: OSError) -> str:
    """Return in plain words why something can't be written, and what the system says."""
    cause = _CAUSES.get(error.errno or 0, "")
    return f"{cause} ({error.strerror})" if cause else error.strerror or str(error)


def _refused(shown: str, error: OSError) -> TorchgraftError:
    kept = "" if error.errno == errno.ENOENT else "; whatever stood there before is intact"
    return WriteError(f"{shown} can't be written: {cause_of(error)}{kept}")
