"""PyTorch's zip format (since 1.6), and TorchScript archives, which are built alike."""

from __future__ import annotations

import re
from typing import Any

from torchgraft.core.errors import (
    CheckpointError,
    CorruptCheckpointError,
    UnsafeCheckpointError,
    UnsupportedCheckpointError,
)
from torchgraft.core.facts import from_texts
from torchgraft.core.formatting import counted
from torchgraft.reading.containers.strict_json import loads
from torchgraft.reading.containers.zip_archive import ZipArchive
from torchgraft.reading.containers.zip_records import RecordBytes
from torchgraft.reading.contents import Contents
from torchgraft.reading.pickles.inert import GlobalName, StorageRef, StorageType, TensorRef, brief
from torchgraft.reading.pickles.machine import Machine
from torchgraft.reading.pickles.resolver import Resolver, check_geometry, unit_of
from torchgraft.reading.pickles.tensor_runs import TensorFacts, TensorRuns
from torchgraft.reading.tensors import TensorView

MAX_VERSION = 10
MAX_CHECKED = 1000
NOTES = "torchgraft.json"
_RECORDS = ("data.pkl", "version", "byteorder", NOTES, "constants.pkl")
_KEY = re.compile(r"[A-Za-z0-9_]+")
_DEVICE = re.compile(r"[a-z]+(?::\d+)?|meta|privateuseone:\d+")


def read_torch_zip(archive: ZipArchive, root: str) -> Contents:
    """Return what `root`/data.pkl holds."""
    label = archive.window.label
    warnings: list[str] = []
    big = _check_facts(archive, root, warnings)
    notes = _own_metadata(archive, f"{root}/{NOTES}", warnings)  # early: what it takes to read them is free again later
    storages = ZipStorages(archive, f"{root}/data/", warnings, big=big)
    tree, foreign = _unpickled(archive, f"{root}/data.pkl", storages)
    if packed := [name for name in archive.compressed if not name.startswith(f"{root}/code/")]:  # torch packs code
        warnings.append(f"{counted(len(packed), 'compressed record')}, as {packed[0]}")
    script = f"{root}/constants.pkl" in archive.entries
    if script:
        _check_constants(archive, root, warnings)
    _warn_of_unread(archive, root, storages, warnings, script=script)
    storages.forget()  # from here on the tensors hold what they need
    return Contents(
        format="TorchScript" if script else "torch zip",
        tree=tree,
        metadata=notes,
        resolve=Resolver(label, storages, big=big),
        foreign=foreign,
        warnings=archive.warnings + warnings,
    )


def _unpickled(archive: ZipArchive, record: str, storages: ZipStorages) -> tuple[Any, tuple[str, ...]]:
    """Return what a record holds, and the foreign classes that it names; the pickle itself is free again then."""
    data, size = archive.read(record), archive.window.size
    where = f"{archive.window.label}: {record}"
    machine = Machine(data, where, storages.persistent, TensorRuns(storages), size=size)
    return machine.only_value(), machine.globals.foreign_names("__torch__")


def _check_constants(archive: ZipArchive, root: str, warnings: list[str]) -> None:
    """Run over the constants of TorchScript code, which belong to the code: they may not ask for calls either."""
    record = f"{root}/constants.pkl"
    found = ZipStorages(archive, f"{root}/constants/", warnings)
    Machine(archive.read(record), f"{archive.window.label}: {record}", found.persistent).run()
    if found.refs:
        warnings.append(f"not read: {counted(len(found.refs), 'tensor')} among the constants of the code")


def _warn_of_unread(
    archive: ZipArchive, root: str, storages: ZipStorages, warnings: list[str], *, script: bool
) -> None:
    """Say what of the archive is not read: storages of no tensor, and records that belong to nothing."""
    known = {f"{root}/{name}" for name in _RECORDS}
    prefix, hidden = storages.prefix, f"{root}/."
    unused, others, unread = [], [], []
    for number, name in enumerate(archive.entries.names):
        if name.startswith(prefix):
            if not storages.is_named(number) and not name.endswith("/"):
                unused.append(name)
        elif name not in known:
            unread.append(name)
            if not name.endswith("/") and not name.startswith(hidden) and not script:
                others.append(name)
    for name in [*unused, *unread][:MAX_CHECKED]:  # other readers may go by their local headers
        archive.locate(archive.entries[name])
    if unused:
        warnings.append(f"{counted(len(unused), 'storage')} of no tensor, as record {unused[0]}")
    if others:
        warnings.append(f"left out {counted(len(others), 'record')} that no checkpoint has, as {others[0]}")


def _own_metadata(archive: ZipArchive, record: str, warnings: list[str]) -> dict[str, Any]:
    """Return the digests and facts of a file that torchgraft wrote."""
    if record not in archive.entries:
        return {}
    notes = loads(archive.read(record), f"{archive.window.label}: {record}")
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        warnings.append(f"record {record} was left out: it is no table of texts")
        return {}
    return from_texts(notes)


def _check_facts(archive: ZipArchive, root: str, warnings: list[str]) -> bool:
    """Check the small records beside data.pkl; return whether the file is big-endian."""
    if f"{root}/version" in archive.entries:
        text = archive.read(f"{root}/version", 1024).strip()
        if not text.isdigit():
            raise archive.window.corrupt(f"record {root}/version says {text[:20]!r}, expected a number")
        if not 0 < int(text) <= MAX_VERSION:
            raise archive.window.unsupported(
                f"record {root}/version says {text[:20]!r}; versions 1 to {MAX_VERSION} are read"
            )
    else:
        warnings.append("the record with the format version is missing")
    if f"{root}/byteorder" not in archive.entries:
        return False
    order = archive.read(f"{root}/byteorder", 1024)
    if order not in (b"little", b"big"):
        raise archive.window.corrupt(f"record {root}/byteorder says {order[:20]!r}, expected little or big")
    if order == b"big":
        warnings.append("the file is big-endian; values are swapped")
    return order == b"big"


class ZipStorage(RecordBytes):
    """The record of a storage, and of what kind the pickle says that it is."""

    __slots__ = ("kind",)

    def __init__(self, archive: ZipArchive, number: int, nbytes: int, kind: StorageType) -> None:
        super().__init__(archive, number, 0, nbytes)
        self.kind = kind


class ZipStorages:
    """The storages of an archive by key: each named alike by the pickle and found once.

    `refs` are those that were named opcode by opcode. Those named in runs of tensors go by the number of their record:
    there may be a million, and nothing is kept of them but the record.
    """

    def __init__(self, archive: ZipArchive, prefix: str, warnings: list[str], *, big: bool = False) -> None:
        self.archive = archive
        self.prefix = prefix
        self.warnings = warnings
        self.big = big
        self.refs: dict[str, StorageRef] = {}
        self._held: list[ZipStorage | None] = [None] * len(archive.entries)
        self._devices: set[str] = set()

    def persistent(self, pid: Any) -> StorageRef:
        """Return the storage that a persistent id means."""
        if isinstance(pid, tuple) and len(pid) == 6 and pid[5] is not None:
            raise self.archive.window.corrupt(
                f"persistent id {_short(pid)} names a view of a storage, which only files before torch 1.6 have"
            )
        return self.storage(*parse_persistent_id(self.archive.window.label, pid))

    def storage(self, kind: StorageType, key: str, location: str, numel: int) -> StorageRef:
        """Return the storage that these facts mean, which must be the same each time."""
        known = self.refs.get(key) or self._named_in_run(key)
        if known is None:
            if not (key.isdecimal() and key.isascii()) and not _KEY.fullmatch(key):  # numbers are the rule
                raise self.archive.window.corrupt(f"storage key {brief(key, 80)}, expected letters and digits")
            known = self.refs[key] = StorageRef(key, kind, numel)
        elif known.numel != numel or known.kind.dtype is not kind.dtype:
            raise self.archive.window.corrupt(
                f"record {self.prefix}{key} is said to hold {known.numel} of {known.kind.name} and {numel} of {kind.name}"
            )
        self._check_device(key, location)
        return known

    def tensor(self, key: str, facts: TensorFacts) -> TensorView | TensorRef:
        """Return the tensor in the storage `key`: as it can be read, where nothing speaks against it; else described."""
        if facts.view is None:
            facts.view = self._view_of(facts)
            self._check_device(key, facts.location)
        number = self.archive.entries.number(self.prefix + key)
        nbytes, *view = facts.view
        if number >= 0 and self.archive.entries.sizes[number] == nbytes and key not in self.refs:
            held = self._held[number]
            if held is None:
                held = self._held[number] = ZipStorage(self.archive, number, nbytes, facts.kind)
            if held.kind.dtype is facts.kind.dtype:
                return TensorView(held, *view)
        return TensorRef(
            self.storage(facts.kind, key, facts.location, facts.numel), facts.offset, facts.shape, facts.stride
        )

    def find(self, ref: StorageRef) -> RecordBytes:
        """Return the record of a storage, which must be there and of the right size."""
        found: RecordBytes | None = ref.found
        if found is None:
            entries, name = self.archive.entries, self.prefix + ref.key
            number = entries.number(name)
            if number < 0:
                raise self.archive.window.corrupt(f"record {name} is missing: a storage of {ref.nbytes} bytes")
            size = entries.sizes[number]
            if size != ref.nbytes:
                raise self.archive.window.corrupt(f"record {name} has {size} bytes, expected {ref.nbytes}")
            found = ref.found = RecordBytes(self.archive, number, 0, size)
        return found

    def is_named(self, number: int) -> bool:
        """Return whether the pickle names the storage in this record of the archive."""
        return self._held[number] is not None or self.archive.entries.names[number][len(self.prefix) :] in self.refs

    def forget(self) -> None:
        """Let go of what serves to compare what is said of a storage in several places."""
        self.refs.clear()
        self._held.clear()

    def _view_of(self, facts: TensorFacts) -> tuple[Any, ...]:
        """Return the size of the storage and the parts of a view; a size that no record has where there can be none."""
        kind = facts.kind
        dtype, nbytes = kind.dtype, facts.numel * kind.itemsize
        if dtype is None:
            return (-1,)
        try:
            ref = TensorRef(None, facts.offset, facts.shape, facts.stride)
            contiguous = check_geometry("", "", ref, nbytes, dtype.itemsize)
        except CheckpointError:
            return (-1,)
        strides = None if contiguous else facts.stride
        return nbytes, dtype, facts.shape, facts.offset * dtype.itemsize, strides, unit_of(dtype) if self.big else 0

    def _named_in_run(self, key: str) -> StorageRef | None:
        number = self.archive.entries.number(self.prefix + key)
        held = self._held[number] if number >= 0 else None
        if held is None:
            return None
        ref = self.refs[key] = StorageRef(key, held.kind, held.nbytes // held.kind.itemsize, held)
        return ref

    def _check_device(self, key: str, location: str) -> None:
        if location not in self._devices:
            self._devices.add(location)
            if not _DEVICE.fullmatch(location):
                self.warnings.append(f"storage {key} was saved on an unknown device {brief(location)}")


def parse_persistent_id(label: str, pid: Any) -> tuple[StorageType, str, str, int]:
    """Return (type, key, device, elements) of a persistent id ("storage", type, key, device, elements, ...)."""
    if isinstance(pid, tuple) and pid[:1] == ("module",):
        raise UnsafeCheckpointError(
            f"{label}: a persistent id of type module asks to import source code; nothing was run"
        )
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        raise CorruptCheckpointError(
            f"{label}: persistent id {_short(pid)}, expected (storage, type, key, device, size)"
        )
    _, kind, key, location, numel = pid[:5]
    key = str(key) if type(key) is int else key
    if not isinstance(kind, StorageType):
        raise _no_storage_type(label, kind)
    if not isinstance(key, str) or type(numel) is not int:
        wrong, is_not = ("storage key", key) if not isinstance(key, str) else ("number of elements", numel)
        raise CorruptCheckpointError(f"{label}: persistent id with {brief(is_not, 40)} as the {wrong}")
    if "\0" in key:
        raise CorruptCheckpointError(f"{label}: storage key {brief(key)} holds a NUL, which no name of a record has")
    if numel < 0:
        raise CorruptCheckpointError(f"{label}: storage {brief(key)} of {numel} elements")
    return kind, key, location if isinstance(location, str) else brief(location), numel


def _no_storage_type(label: str, kind: Any) -> Exception:
    if isinstance(kind, GlobalName) and kind.module.partition(".")[0] == "torch":
        return UnsupportedCheckpointError(f"{label}: a storage of the type {kind}, which is not read")
    if isinstance(kind, GlobalName):
        return UnsafeCheckpointError(
            f"{label}: a storage of the type {kind}, which only its own code knows; nothing was run"
        )
    return CorruptCheckpointError(f"{label}: persistent id with {brief(kind, 40)} as the type of a storage")


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return "(" + ", ".join(v.name if isinstance(v, StorageType) else brief(v, 40) for v in value[:6]) + ")"
    return f"of type {type(value).__name__}"
