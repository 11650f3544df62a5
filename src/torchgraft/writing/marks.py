"""The mark that says which run of torchgraft wrote a shard: all that a writer needs to know of a file that stands there."""

from __future__ import annotations

import json
import zipfile
from contextlib import suppress

from torchgraft.core.facts import PART
from torchgraft.writing.safetensors import MAX_HEADER
from torchgraft.writing.torch_zip import NOTES, ROOT


def mark_of(path: str) -> str:
    """Return the mark of a shard that torchgraft wrote; empty for any other file, and where there is none."""
    with suppress(OSError, ValueError, RecursionError, KeyError, zipfile.BadZipFile, NotImplementedError):
        return _text(_notes(path))
    return ""


def _notes(path: str) -> object:
    """Return the metadata of a safetensors file, or the record of a torch file that it would stand in."""
    with open(path, "rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if not head.startswith(b"PK"):
            return json.loads(file.read(length))["__metadata__"] if length <= MAX_HEADER else None
    with zipfile.ZipFile(path) as archive:
        record = archive.getinfo(f"{ROOT}/{NOTES}")
        return json.loads(archive.read(record)) if record.file_size <= MAX_HEADER else None


def _text(notes: object) -> str:
    found = notes.get(PART) if isinstance(notes, dict) else None
    return found if isinstance(found, str) else ""
