"""Opening checkpoints: names, shapes and types of what is in them, and the values on request.

Nothing in a checkpoint is ever executed, and torch is imported only when a value is read. Whatever is wrong with a file is
a CheckpointError, wherever in this package it is found: its kinds are in `core.errors`, and functions don't repeat it.
"""

from __future__ import annotations

import os
from collections.abc import ItemsView, Iterator, Sequence, ValuesView
from typing import TYPE_CHECKING, Any, Self, cast

from torchgraft.core.errors import UsageError
from torchgraft.core.objects import a_kind
from torchgraft.core.specs import Source
from torchgraft.core.system.fast_objects import collector_paused
from torchgraft.reading.disk.handles import is_handle
from torchgraft.reading.finding.catalog import catalogue
from torchgraft.reading.memory import apart_from
from torchgraft.reading.source import OpenedCheckpoint

if TYPE_CHECKING:
    from torchgraft.reading.contents import Contents
    from torchgraft.reading.disk.files import CheckpointFile

__all__ = ["apart_from", "open_checkpoint", "part_of"]


def open_checkpoint(checkpoint: Any) -> Source:
    """Return the opened checkpoint: a path, a file object, a dictionary or list of tensors, a module, or a Source.

    A file object must be open for bytes and seekable, as an io.BytesIO is; it is read from its first byte on.
    What is opened already stays open when the result is closed: it is its owner's to close.

    Raises:
        CheckpointError: it can't be read; the message names the file and the record or tensor.
        UsageError: the argument is none of these, or was closed.
    """
    if isinstance(checkpoint, (str, os.PathLike)):
        return _open_path(checkpoint)
    if is_handle(checkpoint):
        return _open_handle(checkpoint)
    if isinstance(checkpoint, OpenedCheckpoint):
        return checkpoint.lent()
    if hasattr(checkpoint, "networks") and hasattr(checkpoint, "read_into"):
        return cast("Source", Lent(checkpoint))
    from torchgraft.reading.memory import is_torch_module, read_memory

    is_listed = isinstance(checkpoint, (list, tuple)) and not _remedy(checkpoint)
    if is_listed or is_torch_module(checkpoint) or hasattr(checkpoint, "items"):
        contents = read_memory(checkpoint)
        return _opened(f"<{contents.format}>", contents, ())
    accepted = "a path, an open file, a dictionary of tensors or a module is accepted"
    raise UsageError(f"checkpoint is {a_kind(checkpoint)}; {accepted}{_remedy(checkpoint)}")


def part_of(source: Source) -> str:
    """Return that a source is one file of several that belong together, "" where nothing says so."""
    from torchgraft.reading.folders import said_part

    return said_part(source.origin) if os.path.isfile(source.origin) else ""


def _remedy(given: object) -> str:
    if isinstance(given, (bytes, bytearray, memoryview)):
        return "; wrap a file's content in io.BytesIO"
    if isinstance(given, Iterator):
        return (
            "; in place of model.parameters() or model.named_parameters() give dict(model.named_parameters()), "
            "or model.state_dict(), which has the buffers, too"
        )
    if isinstance(given, (ItemsView, ValuesView)):
        return "; give the dictionary itself"
    if isinstance(given, (list, tuple)) and given:
        if all(isinstance(one, (str, os.PathLike)) for one in given):
            return "; of several files give the folder, or the index.json that names them"
        if all(isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) for one in given):
            return "; of pairs of names and tensors give dict(pairs)"
    return ""


class Lent:
    """A source of somebody else's making, which stays open when this is closed."""

    def __init__(self, source: object) -> None:
        self._source = source

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def close(self) -> None:
        """Leave it open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave it open."""


def _open_path(path: str | os.PathLike[str]) -> Source:
    from torchgraft.reading.folders import read_path

    return _kept_open(os.fsdecode(path), *read_path(os.fsdecode(path)))


def _open_handle(handle: object) -> Source:
    from torchgraft.reading.folders import read_handle

    contents, files = read_handle(handle)
    return _kept_open(str(files[0]), contents, files)


def _kept_open(origin: str, contents: Contents, files: Sequence[CheckpointFile]) -> Source:
    """Return the opened checkpoint; its files are closed where it can't be made."""
    try:
        return _opened(origin, contents, files)
    except BaseException:
        for file in files:
            file.close()
        raise


def _opened(origin: str, contents: Contents, files: Any) -> OpenedCheckpoint:
    with collector_paused():
        found = catalogue(contents, origin)
    return OpenedCheckpoint(origin=origin, format=contents.format, found=found, files=files)
