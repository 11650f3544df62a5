"""A file appears whole at its place, or what stood there stays: write beside it, flush to disk, rename."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from torchgraft.core.errors import TorchgraftError, WriteError, printable

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    gets those of the umask. Until the rename there is a hidden file beside the target, removed on any failure.

    Raises:
        WriteError: the file could not be written; what stood at its place is intact.
    """
    shown = printable(os.fsdecode(path))
    try:
        final = os.path.realpath(path)
        mode = _mode_of(final, shown)
        temporary, handle = _open_beside(final)
    except OSError as error:
        raise _refused(shown, error) from error
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            yield file
            os.fsync(file.fileno())
        os.replace(temporary, final)  # noqa: PTH105  # the path must stay as it was resolved
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        if isinstance(error, OSError):
            raise _refused(shown, error) from error
        raise
    _flush_folder(os.path.dirname(final))  # noqa: PTH120


def _mode_of(final: str, shown: str) -> int | None:
    """Return the permissions of the file that is to be replaced, None where there is none."""
    try:
        facts = os.stat(final)  # noqa: PTH116
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(facts.st_mode):
        what = "a folder" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
        raise WriteError(f"{shown} can't be written: it is {what}; give the path of a file")
    if not os.access(final, os.W_OK):
        raise WriteError(f"{shown} can't be written: it is write-protected; remove it or give another path")
    return stat.S_IMODE(facts.st_mode)


def _open_beside(final: str) -> tuple[str, int]:
    """Create a hidden file in the folder of `final`; return its path and descriptor."""
    folder, name = os.path.split(final)
    temporary = os.path.join(folder, f".{name[:60]}.{secrets.token_hex(6)}.part")  # noqa: PTH118
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    return temporary, os.open(temporary, flags, 0o666)


def _flush_folder(folder: str) -> None:
    """Make the rename durable, where folders can be flushed. The file is in place already: failing here is no error."""
    if os.name == "nt":
        return
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _refused(shown: str, error: OSError) -> TorchgraftError:
    cause = _CAUSES.get(error.errno or 0, "")
    detail = f"{cause} ({error.strerror})" if cause else error.strerror or str(error)
    return WriteError(f"{shown} can't be written: {detail}; whatever stood there before is intact")
