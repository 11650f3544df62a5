"""PyTorch's format before 1.6: five pickles one after the other, then the storages.

Also what begins alike: one pickle that holds arrays, as Detectron2 and PaddlePaddle keep weights.
"""

from __future__ import annotations

from typing import Any

from torchgraft.core.errors import CorruptCheckpointError
from torchgraft.reading.contents import Contents
from torchgraft.reading.disk.files import Window
from torchgraft.reading.finding.tree import find_tensors
from torchgraft.reading.formats.torch_zip import parse_persistent_id
from torchgraft.reading.pickles.inert import Builder, GlobalName, StorageRef, brief
from torchgraft.reading.pickles.machine import MAX_PICKLE, Machine
from torchgraft.reading.pickles.resolver import Resolver
from torchgraft.reading.tensors import FileBytes

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
_FIRST = 1 << 20
_CLASSES = (GlobalName, Builder)
_JOBLIB = b"joblib.numpy_pickle"
_LONGEST = 4096  # bytes of an opcode with names and numbers; texts that reach beyond the end say so


def read_torch_legacy(window: Window) -> Contents:
    """Return the tensors of a file of the old format."""
    stream = _Stream(window)
    warnings: list[str] = []
    if (first := stream.next("first object")) != MAGIC:
        return _read_arrays(window, stream, first)
    if (protocol := stream.next("protocol")) != PROTOCOL:
        raise window.unsupported(f"protocol {brief(protocol, 30)} of files before torch 1.6; {PROTOCOL} alone is read")
    facts = stream.next("system information")
    if isinstance(facts, dict) and facts.get("little_endian") is False:
        warnings.append("saved on a big-endian machine; the format's storages are little-endian all the same")
    storages = _Storages(window)
    tree = stream.next("objects", storages.persistent)
    storages.lay_out(stream.next("storage keys"), stream.pos)
    return Contents(
        format="torch legacy",
        tree=tree,
        resolve=Resolver(window.label, storages),
        foreign=tuple(sorted(stream.foreign)),
        warnings=warnings,
    )


def _read_arrays(window: Window, stream: _Stream, tree: Any) -> Contents:
    """Return the arrays of a dictionary that was pickled as it is, without torch."""
    if not isinstance(tree, dict) or not find_tensors(tree, window.label).holds[id(tree)]:
        raise window.unsupported(
            "a plain pickle, not written by torch.save (its magic number is missing), and no dictionary of arrays"
        )
    if stream.pos != window.size:
        raise window.corrupt(f"{window.size - stream.pos} bytes after the end of the pickle")
    return Contents(
        format="pickle",
        tree=tree,
        resolve=Resolver(window.label, _Storages(window)),
        foreign=tuple(sorted(stream.foreign)),
    )


class _Stream:
    """The pickles at the head of the file; more of it is read only when one of them needs it."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.pos = 0
        self.foreign: set[str] = set()
        self.data = window.read(0, min(window.size, _FIRST))

    def next(self, part: str, persistent: Any = None) -> Any:
        while True:
            where = f"{self.window.label}: pickle of the {part}"
            machine = Machine(self.data, where, persistent, size=self.window.size)
            try:
                value, self.pos = machine.run(self.pos)
            except CorruptCheckpointError:
                if _JOBLIB in self.data:
                    raise self.window.unsupported(
                        "written by joblib, which puts arrays between the parts of a pickle; write them into an .npz file"
                    ) from None
                ends = machine.is_truncated or machine.at + _LONGEST > len(self.data)
                if not ends or len(self.data) >= self.window.size:
                    raise
                if len(self.data) >= MAX_PICKLE:
                    raise self.window.too_large(
                        f"a pickle of more than {MAX_PICKLE} bytes, which is the limit"
                    ) from None
                self.data = self.window.read(0, min(self.window.size, 8 * len(self.data), MAX_PICKLE))
                continue
            self.foreign |= set(machine.globals.foreign_names())
            return value


class _Storages:
    """The storages by key. Each is preceded by its number of elements, in the order of the key list."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.refs: dict[str, StorageRef] = {}
        self.found: dict[str, FileBytes] = {}
        self.views: dict[str, tuple[str, int, int]] = {}

    def persistent(self, pid: Any) -> Any:
        """Return the storage that a persistent id means; views of storages get a storage of their own."""
        label = self.window.label
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module" and isinstance(pid[1], _CLASSES):
            return pid[1]  # a class with its source code, which is not looked at
        kind, key, _, numel = parse_persistent_id(label, pid)
        known = self.refs.get(key)
        if known is None:
            known = self.refs[key] = StorageRef(key, kind, numel)
        elif known.numel != numel or known.kind.dtype is not kind.dtype:
            raise self.window.corrupt(f"storage {brief(key)} is described in two ways")
        view = pid[5] if len(pid) == 6 else None
        if view is None:
            return known
        if not isinstance(view, tuple) or len(view) != 3 or not all(type(n) is int for n in view[1:]):
            raise self.window.corrupt(f"storage {brief(key)} has a view that is no (key, offset, size)")
        name, offset, size = view
        if offset < 0 or size < 0 or offset + size > numel:
            raise self.window.corrupt(
                f"view {brief(str(name))} reaches from {offset} to {offset + size} of a storage of {numel} elements"
            )
        own = f"{key}\0{name}"
        self.views[own] = (key, offset * kind.itemsize, size * kind.itemsize)
        return self.refs.setdefault(own, StorageRef(own, kind, size))

    def lay_out(self, keys: Any, start: int) -> None:
        """Find each storage in the file, and nothing else in it."""
        if not isinstance(keys, list) or not all(isinstance(k, (str, int)) for k in keys):
            raise self.window.corrupt("the list of storage keys is none")
        names = [str(k) for k in keys]
        known = {k for k in self.refs if "\0" not in k}
        if len(set(names)) != len(names) or set(names) != known:
            odd = sorted(set(names) ^ known) or ["(one twice)"]
            raise self.window.corrupt(f"storage {brief(odd[0])} is not in both the pickle and the list of keys")
        at = start
        for name in names:
            at = self._place(name, self.refs[name], at)
        if at != self.window.size:
            raise self.window.corrupt(f"{self.window.size - at} bytes after the last storage")

    def _place(self, name: str, ref: StorageRef, at: int) -> int:
        left = self.window.size - at - 8
        if left < 0:
            raise self.window.corrupt(f"truncated: the size of storage {brief(name)} is missing at byte {at}")
        count = int.from_bytes(self.window.read(at, 8), "little", signed=True)
        if count != ref.numel:
            raise self.window.corrupt(f"storage {brief(name)} has size {count}, the pickle says {ref.numel} elements")
        if ref.nbytes > left:
            raise self.window.corrupt(
                f"truncated: storage {brief(name)} has a size of {ref.nbytes} bytes, {left} are left in the file"
            )
        self.found[name] = FileBytes(self.window, at + 8, ref.nbytes)
        return at + 8 + ref.nbytes

    def find(self, ref: StorageRef) -> FileBytes:
        """Return the bytes of a storage or of a view of one."""
        found = self.found.get(ref.key)
        if found is None:
            root, offset, size = self.views[ref.key]
            base = self.found[root]
            found = self.found[ref.key] = FileBytes(self.window, base.offset + offset, size)
        return found
