"""Distributed checkpoints in safetensors files: each process wrote the boxes of tensors that it held into files of its own.

Source of names and metadata: `HuggingFaceStorageWriter` with `save_distributed=True`, in torch.distributed.checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torchgraft.core.errors import CorruptCheckpointError, UnsupportedCheckpointError, printable
from torchgraft.core.facts import merged
from torchgraft.reading.containers.strict_json import loads
from torchgraft.reading.contents import Contents
from torchgraft.reading.dcp_chunks import Chunk, ChunkedTensor, check_cover
from torchgraft.reading.disk.files import shown
from torchgraft.reading.disk.paths import OpenFiles
from torchgraft.reading.pickles.inert import brief
from torchgraft.reading.sniff import read_file
from torchgraft.reading.tensors import TensorView

BOXES = "DCP_SHARDING_INFO"
_OF_A_PROCESS = re.compile(r"shard-(\d{5})-.+\.safetensors")


def box_files(names: list[str]) -> list[str]:
    """Return those of the files that processes wrote each for itself."""
    return [name for name in names if _OF_A_PROCESS.fullmatch(name)]


def expect_whole(contents: Contents, label: str) -> None:
    """Refuse a file by itself whose tensors are parts of larger ones."""
    offsets = _offsets(contents, label)
    inner = next((name for name, at in offsets.items() if any(at)), None)
    if inner is not None:
        raise UnsupportedCheckpointError(
            f"{label}: holds parts of tensors that several processes saved, such as {printable(inner, 80)} from index "
            f"{list(offsets[inner])} on: give the folder that holds all parts"
        )
    if offsets:
        contents.warnings.append("several processes may have saved it: then these are parts, and the folder holds all")


def read_boxes(folder: str, names: list[str], opened: OpenFiles) -> Contents:
    """Return the tensors whose boxes lie in these files of a folder."""
    chunks: dict[str, list[Chunk]] = {}
    out = Contents(format="DCP in safetensors", tree={})
    numbers = {int(match[1]) for match in map(_OF_A_PROCESS.fullmatch, names) if match}
    missing = next((n for n in range(1, max(numbers)) if n not in numbers), None)
    if missing is not None:
        raise CorruptCheckpointError(
            f"{shown(folder)}: the files of process {missing} (shard-{missing:05d}-) are missing"
        )
    for name in names:
        file = opened.inside(folder, name)
        contents = read_file(file.window())
        out.warnings += contents.warnings
        offsets = _offsets(contents, str(file))
        for key, view in contents.tree.items():
            at = offsets.get(key, (0,) * len(view.shape))
            chunks.setdefault(key, []).append(_chunk(key, view, at, str(file)))
        contents.metadata.pop(BOXES, None)
        out.metadata = merged(out.metadata, contents.metadata)
    for key, found in chunks.items():
        out.tree[key] = _joined(key, found, shown(folder))
    return out


def _joined(key: str, chunks: list[Chunk], label: str) -> TensorView | ChunkedTensor:
    """Return the tensor that boxes make up; it ends where the last of them does."""
    kinds = {(len(c.sizes), c.held.dtype) for c in chunks if isinstance(c.held, TensorView)}
    if len(kinds) > 1:
        raise CorruptCheckpointError(f"{label}: the parts of tensor {printable(key, 80)} differ in dtype or dimensions")
    (dims, dtype), *_ = kinds
    shape = tuple(max(c.offsets[d] + c.sizes[d] for c in chunks) for d in range(dims))
    check_cover(shape, chunks, lambda said: CorruptCheckpointError(f"{label}: tensor {printable(key, 80)} {said}"))
    first = chunks[0].held
    if len(chunks) == 1 and isinstance(first, TensorView):
        return first
    return ChunkedTensor(key, shape, dtype, tuple(chunks))


def _chunk(key: str, view: TensorView, offsets: tuple[int, ...], label: str) -> Chunk:
    if len(offsets) != len(view.shape):
        raise CorruptCheckpointError(
            f"{label}: tensor {printable(key, 80)} {list(view.shape)} is said to begin at {list(offsets)}"
        )
    return Chunk(offsets, view.shape, view)


def _offsets(contents: Contents, label: str) -> dict[str, tuple[int, ...]]:
    """Return where the boxes of a file begin, by name; empty where it states nothing."""
    stated: Any = contents.metadata.get(BOXES, {})
    if isinstance(stated, str):
        stated = loads(stated.encode(), f"{label}: {BOXES}")
    if not isinstance(stated, dict):
        raise CorruptCheckpointError(f"{label}: {BOXES} is no table")
    return {name: _offset(name, entry, label) for name, entry in stated.items()}


def _offset(name: str, entry: Mapping[str, Any] | Any, label: str) -> tuple[int, ...]:
    at = entry.get("saved_offsets") if isinstance(entry, dict) else None
    if not isinstance(at, list) or not all(type(n) is int and 0 <= n < 1 << 62 for n in at):
        raise CorruptCheckpointError(
            f"{label}: {BOXES} has {brief(at, 60)} for {printable(name, 80)}, expected whole numbers from 0 on"
        )
    return tuple(at)
