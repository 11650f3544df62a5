"""PyTorch's distributed checkpoints: a pickled table of tensors in chunks, and files of chunks."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import (
    CorruptCheckpointError,
    LimitExceededError,
    UnsafeCheckpointError,
    UnsupportedCheckpointError,
    printable,
)
from torchgraft.core.facts import BESIDE, from_json
from torchgraft.reading.contents import AsIs, Contents, Resolve
from torchgraft.reading.dcp_chunks import Chunk, ChunkedTensor, check_cover
from torchgraft.reading.disk.files import Window, shown
from torchgraft.reading.disk.paths import OpenFiles, name_fault
from torchgraft.reading.finding.tree import children, is_tensor
from torchgraft.reading.pickles.inert import Stub, brief
from torchgraft.reading.pickles.machine import MAX_PICKLE, Machine
from torchgraft.reading.tensors import MAX_DIMS, StoredTensor

MAX_SMALL = 1 << 20


def read_dcp(folder: str, opened: OpenFiles) -> Contents:
    """Return the tensors of a distributed checkpoint, nested as they were saved."""
    names = os.listdir(folder)
    if ".metadata" not in names:
        hint = "; .metadata.tmp is there: the save was cut short" if ".metadata.tmp" in names else ""
        raise CorruptCheckpointError(f"{shown(folder)}: a distributed checkpoint whose .metadata is missing{hint}")
    file = opened.inside(folder, ".metadata")
    data = sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(folder))
    if file.size > MAX_PICKLE:
        raise LimitExceededError(f"{file}: a pickle of {file.size} bytes, the limit is {MAX_PICKLE}")
    machine = Machine(file.window().read(0, file.size), str(file), size=data)
    root = machine.only_value()
    reader = _Reader(folder, str(file), opened)
    tree = reader.tree(_attributes(root, str(file)))
    beside = tree.pop(BESIDE, None)
    facts = from_json(beside) if isinstance(beside, str) else {}
    foreign = {*machine.globals.foreign_names("torch.distributed.checkpoint.", "pathlib."), *reader.foreign}
    return Contents(
        format="DCP",
        tree=tree,
        resolve=reader.resolve,
        foreign=tuple(sorted(foreign)),
        metadata=facts,
        warnings=reader.warnings,
    )


@dataclass(frozen=True, slots=True)
class _Info:
    """Where an entry lies."""

    path: str
    offset: int
    length: int


class _ByEntry:
    """Tensors of chunks can be read as they are; those inside a pickled entry, and numpy's arrays, by its own resolver."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, Resolve]] = {}

    def keep(self, contents: Contents) -> None:
        """Remember whose the tensors in `contents` are."""
        todo, seen = [contents.tree], set[int]()
        while todo:
            node = todo.pop()
            if is_tensor(node):
                self.known[id(node)] = node, contents.resolve
            elif id(node) not in seen:
                seen.add(id(node))
                todo += [child for _, child in children(node)]

    def tensor(self, ref: Any, name: str) -> StoredTensor:
        """Return the tensor called `name`."""
        _, resolve = self.known.get(id(ref), (ref, _AS_IS))
        return resolve.tensor(ref, name)


_AS_IS = AsIs()


class _Reader:
    def __init__(self, folder: str, label: str, opened: OpenFiles) -> None:
        self.folder = folder
        self.label = label
        self.files = opened
        self.opened: dict[str, Window] = {}
        self.resolve = _ByEntry()
        self.foreign: set[str] = set()
        self.warnings: list[str] = []

    def tree(self, root: dict[str, Any]) -> dict[str, Any]:
        """Return all entries, at the paths that the planner kept for their flat names."""
        entries, paths = root.get("state_dict_metadata"), root.get("planner_data")
        if not isinstance(entries, dict) or not isinstance(root.get("storage_data"), dict):
            raise CorruptCheckpointError(f"{self.label}: no table of tensors (state_dict_metadata, storage_data)")
        places = self._places(root["storage_data"])
        out: dict[str, Any] = {}
        for name, entry in entries.items():
            if not isinstance(name, str) or not isinstance(entry, Stub):
                raise CorruptCheckpointError(f"{self.label}: an entry that is none: {brief(name)}")
            value = self._entry(name, entry, places)
            path = paths.get(name) if isinstance(paths, dict) else None
            _put(out, path if isinstance(path, tuple) and path else (name,), value, self.label)
        return out

    def _places(self, table: dict[Any, Any]) -> dict[tuple[str, tuple[int, ...] | None], _Info]:
        out = {}
        for index, info in table.items():
            at, place = _attributes(index, self.label), _attributes(info, self.label)
            name, offset = at.get("fqn"), at.get("offset")
            path, start, length = place.get("relative_path"), place.get("offset"), place.get("length")
            if not isinstance(path, str) or type(start) is not int or type(length) is not int:
                raise CorruptCheckpointError(
                    f"{self.label}: the place of {brief(name)} has the path {brief(path, 40)}, offset {brief(start, 40)} and "
                    f"length {brief(length, 40)}, expected a text and two whole numbers"
                )
            if place.get("transform_descriptors"):
                raise UnsupportedCheckpointError(
                    f"{self.label}: {brief(name)} went through a transform ({brief(place['transform_descriptors'])}), which is "
                    "not read"
                )
            if start < 0 or length < 0:
                raise CorruptCheckpointError(f"{self.label}: {brief(name)} has offset {start} and length {length}")
            key = str(name), tuple(offset) if isinstance(offset, (tuple, list)) else None
            if key in out:
                raise CorruptCheckpointError(
                    f"{self.label}: {brief(name)} at {brief(offset, 40)} is said to lie in two places"
                )
            out[key] = _Info(path, start, length)
        return out

    def _entry(self, name: str, entry: Stub, places: dict[Any, _Info]) -> Any:
        facts = _attributes(entry, self.label) if entry.state is not None else {}
        if "size" not in facts:
            return self._small(name, places.get((name, None)))
        shape, dtype = self._shape(name, facts.get("size")), _dtype(facts.get("properties"))
        if dtype is None:
            raise UnsupportedCheckpointError(f"{self.label}: tensor {printable(name)} has a dtype that is not read")
        listed = facts.get("chunks") or []
        if not isinstance(listed, (list, tuple)):
            raise CorruptCheckpointError(f"{self.label}: the chunks of {printable(name)} are no list")
        chunks = [self._chunk(name, c, shape, dtype, places) for c in listed]
        check_cover(shape, chunks, partial(self._bad, name))
        return ChunkedTensor(name, shape, dtype, tuple(chunks))

    def _chunk(self, name: str, chunk: Any, shape: tuple[int, ...], dtype: DType, places: dict[Any, _Info]) -> Chunk:
        facts = _attributes(chunk, self.label)
        offsets, sizes = self._shape(name, facts.get("offsets")), self._shape(name, facts.get("sizes"))
        same_dims = len(offsets) == len(sizes) == len(shape)
        if not same_dims or any(o + s > n for o, s, n in zip(offsets, sizes, shape, strict=True)):
            raise self._bad(name, f"of shape {shape} has a chunk of {sizes} at {offsets}, which reaches outside")
        info = places.get((name, offsets)) or (places.get((name, None)) if sizes == shape else None)
        if info is None:
            raise self._bad(name, f"has a chunk at {offsets} that lies in no file")
        if prod(sizes) * dtype.itemsize > info.length:
            raise self._bad(name, f"has a chunk of {prod(sizes) * dtype.itemsize} bytes in an entry of {info.length}")
        return Chunk(offsets, sizes, self._window(name, info))

    def _small(self, name: str, info: _Info | None) -> Any:
        """Return a pickled value that is no tensor, read by the inert interpreter."""
        if info is None or info.length > MAX_SMALL:
            self.warnings.append(f"entry {printable(name, 80)} is no tensor and was left out")
            return None
        from torchgraft.reading.sniff import read_file

        contents = read_file(self._window(name, info))
        self.resolve.keep(contents)
        self.foreign.update(contents.foreign)
        return contents.tree

    def _window(self, name: str, info: _Info) -> Window:
        window = self.opened.get(info.path)
        if window is None:
            fault = name_fault(info.path)
            if fault:
                said = f"the data file {printable(info.path)!r}: {fault}; expected a file beside .metadata"
                raise UnsafeCheckpointError(f"{self.label}: {said}")
            file = self.files.inside(self.folder, info.path)
            window = self.opened[info.path] = file.window()
        if info.offset + info.length > window.size:
            raise window.corrupt(
                f"truncated: {printable(name, 80)} lies at offset {info.offset} with {info.length} bytes, the file has "
                f"{window.size}"
            )
        return window.part(info.offset, info.length, printable(name, 80))

    def _shape(self, name: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, (tuple, list)) or not all(type(n) is int and 0 <= n < 1 << 63 for n in value):
            raise self._bad(name, f"has the size or offset {brief(value)}, expected whole numbers from 0 on")
        if len(value) > MAX_DIMS:
            raise LimitExceededError(f"{self.label}: tensor {printable(name)} has {len(value)} dimensions")
        return tuple(value)

    def _bad(self, name: str, text: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(f"{self.label}: tensor {printable(name, 80)} {text}")


def _attributes(value: Any, label: str) -> dict[str, Any]:
    """Return the attributes of a stand-in for a data class (with or without slots)."""
    state = value.state if isinstance(value, Stub) else None
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        state = state[1]
    if not isinstance(state, dict):
        raise CorruptCheckpointError(f"{label}: no metadata of a distributed checkpoint, but {brief(value, 60)}")
    return state


def _dtype(properties: Any) -> DType | None:
    state = properties.state if isinstance(properties, Stub) else None
    found = state.get("dtype") if isinstance(state, dict) else state[0] if isinstance(state, tuple) and state else None
    return found if isinstance(found, DType) else None


def _put(tree: dict[str, Any], path: tuple[Any, ...], value: Any, label: str) -> None:
    node = tree
    if len(path) > MAX_DIMS:
        raise LimitExceededError(f"{label}: an entry nested to a depth of {len(path)}")
    for part in path[:-1]:
        node = node.setdefault(str(part), {})
        if not isinstance(node, dict):
            raise CorruptCheckpointError(f"{label}: {brief(part)} is both an entry and a container")
    if str(path[-1]) in node:
        raise CorruptCheckpointError(f"{label}: duplicate entry {brief(path[-1])}")
    node[str(path[-1])] = value
