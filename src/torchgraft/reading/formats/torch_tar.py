"""PyTorch's oldest format (before 0.1.10): a tar archive of storages, tensors and the pickle that refers to them."""

from __future__ import annotations

import struct
from collections.abc import Collection
from typing import Any

from torchgraft.reading.containers.tar import EXTENDED, read_members
from torchgraft.reading.contents import Contents, unpack_hint
from torchgraft.reading.disk.files import Window
from torchgraft.reading.pickles.inert import GlobalName, StorageRef, StorageType, TensorRef, brief
from torchgraft.reading.pickles.machine import MAX_PICKLE, Machine
from torchgraft.reading.pickles.resolver import Resolver
from torchgraft.reading.tensors import FileBytes

_PARTS = ("storages", "tensors", "pickle")


def read_torch_tar(window: Window) -> Contents:
    """Return the tensors of a tar checkpoint."""
    members = read_members(window)
    missing = [p for p in _PARTS if p not in members]
    if missing:
        raise window.unsupported(f"a tar archive without {missing[0]}: no checkpoint{unpack_hint(members)}")
    if EXTENDED in members:
        raise members[EXTENDED].corrupt("gives the next member another name or size, which not all readers go by")
    reader = _Reader(window)
    reader.storages(members["storages"])
    reader.tensors(members["tensors"])
    tree = reader.objects(members["pickle"])
    return Contents(
        format="torch tar",
        tree=tree,
        resolve=Resolver(window.label, reader),
        foreign=tuple(sorted(reader.foreign)),
        warnings=["the oldest of PyTorch's formats (tar)"],
    )


class _Reader:
    def __init__(self, window: Window) -> None:
        self.window = window
        self.foreign: set[str] = set()
        self.refs: dict[str, StorageRef] = {}
        self.found: dict[str, FileBytes] = {}
        self.made: dict[str, TensorRef] = {}

    def run(self, data: bytes, at: int, part: str) -> tuple[Any, int]:
        machine = Machine(data, f"{self.window.label}: member {part}", self._tensor, size=self.window.size)
        found = machine.run(at)
        self.foreign |= set(machine.globals.foreign_names())
        return found

    def _tensor(self, pid: Any) -> Any:
        """Return the tensor that a persistent id of the pickle means: its number."""
        if isinstance(pid, tuple) and pid and isinstance(pid[0], GlobalName):
            return pid[0]  # a class with its source code, which is not looked at
        found = self.made.get(str(pid)) if isinstance(pid, (int, str)) else None
        if found is None:
            raise self.window.corrupt(f"persistent id {brief(pid)} means no tensor of the archive")
        return found

    def objects(self, part: Window) -> Any:
        """Return what was saved, with the tensors read before in it."""
        data = part.read(0, min(part.size, MAX_PICKLE))
        tree, at = self.run(data, 0, "pickle")
        self._end(part, data, at)
        return tree

    def storages(self, part: Window) -> None:
        """Read what storages there are: for each its key, device and type, its number of elements, its bytes."""
        data = part.read(0, min(part.size, MAX_PICKLE))
        count, at = self._counted(data, "storages")
        for _ in range(count):
            facts, at = self.run(data, at, "storages")
            if not isinstance(facts, tuple) or len(facts) != 3 or not isinstance(facts[2], StorageType):
                raise part.corrupt("a storage without key, device and type")
            if at + 8 > len(data):
                raise part.corrupt("truncated: the size of a storage is missing")
            numel = int.from_bytes(data[at : at + 8], "little", signed=True)
            ref = StorageRef(self._new_key(part, facts[0], self.refs), facts[2], numel)
            if numel < 0 or at + 8 + ref.nbytes > len(data):
                raise part.corrupt(f"truncated: storage {ref.key} has a size of {numel} elements")
            self.refs[ref.key] = ref
            self.found[ref.key] = FileBytes(part, at + 8, ref.nbytes)
            at += 8 + ref.nbytes
        views, at = self.run(data, at, "storages")
        self._views(part, views)
        self._end(part, data, at)

    def _views(self, part: Window, views: Any) -> None:
        for view in views if isinstance(views, list) else [None]:
            if not isinstance(view, tuple) or len(view) != 4 or not all(type(n) is int for n in view[2:]):
                raise part.corrupt("a view of a storage that is no (key, storage, offset, size)")
            key, base, (offset, numel) = self._new_key(part, view[0], self.refs), self._storage(part, view[1]), view[2:]
            if not 0 <= offset <= offset + numel <= base.numel:
                raise part.corrupt(f"a view reaches from {offset} to {offset + numel} of {base.numel} elements")
            self.refs[key] = ref = StorageRef(f"{base.key}\0{key}", base.kind, numel)
            size = base.kind.itemsize
            self.found[ref.key] = FileBytes(part, self.found[base.key].offset + offset * size, numel * size)

    def tensors(self, part: Window) -> None:
        """Read what tensors there are: for each its key and storage, shape, strides and offset."""
        data = part.read(0, min(part.size, MAX_PICKLE))
        count, at = self._counted(data, "tensors")
        for _ in range(count):
            facts, at = self.run(data, at, "tensors")
            if not isinstance(facts, tuple) or len(facts) != 3:
                raise part.corrupt("a tensor without key, storage and type")
            key, storage = self._new_key(part, facts[0], self.made), self._storage(part, facts[1])
            try:
                (dims,) = struct.unpack_from("<i", data, at)
                numbers = struct.unpack_from(f"<{2 * max(dims, 0) + 1}q", data, at + 8) if dims <= 64 else ()
            except struct.error as error:
                raise part.corrupt(f"truncated: the shape of tensor {brief(key, 40)} is cut short") from error
            if dims < 0 or not numbers:
                raise part.corrupt(f"tensor {brief(key, 40)} of {dims} dimensions")
            at += 8 + 8 * len(numbers)
            self.made[key] = TensorRef(storage, numbers[-1], numbers[:dims], numbers[dims:-1])
        self._end(part, data, at)

    def _new_key(self, part: Window, key: Any, known: Collection[str]) -> str:
        """Return a key as text; the number 1 and the text "1" are one key."""
        if not isinstance(key, (int, str)) or str(key) in known:
            raise part.corrupt(f"{brief(key, 40)} is no key of its own, neither a number nor a text, or given twice")
        return str(key)

    def _storage(self, part: Window, key: Any) -> StorageRef:
        found = self.refs.get(str(key)) if isinstance(key, (int, str)) else None
        if found is None:
            raise part.corrupt(f"{brief(key, 40)} is the key of no storage")
        return found

    def _end(self, part: Window, data: bytes, at: int) -> None:
        if at != len(data):
            raise part.corrupt(f"{len(data) - at} bytes after the end of what it describes")

    def _counted(self, data: bytes, part: str) -> tuple[int, int]:
        count, at = self.run(data, 0, part)
        if not isinstance(count, int) or not 0 <= count <= len(data):
            raise self.window.corrupt(f"member {part} says {brief(count, 40)} as its number")
        return count, at

    def find(self, ref: StorageRef) -> FileBytes:
        """Return the bytes of a storage."""
        return self.found[ref.key]
