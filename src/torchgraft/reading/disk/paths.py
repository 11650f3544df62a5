"""Files that other files name: only beside them, only regular ones, and opened as what was checked."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack

from torchgraft.core.errors import CorruptCheckpointError, MissingFileError, UnsafeCheckpointError
from torchgraft.reading.disk.files import CheckpointFile, shown, unreadable

_WALK = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")


def name_fault(name: str) -> str:
    """Return what is wrong with `name` as the name of a file beside another, "" where nothing is."""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", name):
        return "an absolute path"
    if "://" in name or "\0" in name:
        return "no file name"
    if ".." in re.split(r"[\\/]", name):
        return "a path that leaves the folder (..)"
    if not name.strip("./") or "\\" in name:
        return "no portable file name"
    return ""


def open_inside(folder: str, name: str, number: int = 0) -> CheckpointFile:
    """Open the file `name` of `folder`, which must not lead out of it.

    Links may point inside the folder, or, as in a Hugging Face cache, from `snapshots/…` to the `blobs` beside it. The
    file is opened from the folder down with links forbidden on the way, so that it is the one that was checked.
    """
    path = os.path.join(folder, name)
    try:
        home, real = os.path.realpath(folder), os.path.realpath(path)
        if real == home:
            raise UnsafeCheckpointError(f"{shown(path)}: names the folder itself, and no file in it")
        within = next((top for top in (home, _blobs(home)) if _within(real, top)), "")
        if not within:
            kind = "" if os.path.isfile(real) or not os.path.exists(real) else ", and is not a regular file"
            raise UnsafeCheckpointError(
                f"{shown(path)}: the link leads outside its folder, to {shown(real)}{kind}; put the file itself there, or name "
                "it"
            )
        return CheckpointFile(path, number, opener=lambda flags: _walk(within, real, flags))
    except MissingFileError as error:  # the checkpoint is there, and lacks it
        raise CorruptCheckpointError(str(error)) from error
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from error


class OpenFiles(ExitStack):
    """The files of one checkpoint, in order; left as a context before `pop_all`, it closes them."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[CheckpointFile] = []

    def keep(self, file: CheckpointFile) -> CheckpointFile:
        """Add a file that was opened."""
        self.callback(file.close)
        self.files.append(file)
        return file

    def inside(self, folder: str, name: str) -> CheckpointFile:
        """Open and add the file `name` of `folder`, see `open_inside`."""
        return self.keep(open_inside(folder, name, len(self.files)))


def open_beside(file: CheckpointFile, name: str) -> CheckpointFile:
    """Open the file `name` of the folder in which `file` lies; it is opened once and closes with `file`."""
    folder = file.folder(name)
    path = os.path.join(folder, name)
    for known in file.companions:
        if known.path == path:
            return known
    found = open_inside(folder, name, file.number + len(file.companions) + 1)
    file.companions.append(found)
    return found


def _walk(top: str, real: str, flags: int) -> int:
    """Open `real`, which lies below `top` and was free of links, refusing links that appeared since."""
    if not _WALK:  # pragma: no cover  Windows
        return os.open(real, flags)
    with ExitStack() as stack:
        at = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, at)
        *folders, last = os.path.relpath(real, top).split(os.sep)
        for part in folders:
            at = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            stack.callback(os.close, at)
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=at)


def _within(path: str, folder: str) -> bool:
    return bool(folder) and path.startswith(folder.rstrip(os.sep) + os.sep)


def _blobs(home: str) -> str:
    parts = home.split(os.sep)  # bytes of a path, whatever it names
    if "snapshots" not in parts:
        return ""
    at = len(parts) - 1 - parts[::-1].index("snapshots")
    return os.sep.join([*parts[:at], "blobs"])  # as above
