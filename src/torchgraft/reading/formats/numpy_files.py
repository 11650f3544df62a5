"""numpy's files: one array (.npy), or a zip of arrays (.npz). Headers are parsed by pattern, never evaluated."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import CorruptCheckpointError, UnsafeCheckpointError, UnsupportedCheckpointError, printable
from torchgraft.core.formatting import counted
from torchgraft.reading.containers.zip_archive import Inflating, ZipArchive
from torchgraft.reading.containers.zip_directory import STORED, ZipEntry
from torchgraft.reading.containers.zip_records import RecordBytes
from torchgraft.reading.contents import Contents
from torchgraft.reading.disk.files import Window
from torchgraft.reading.pickles.resolver import NUMPY_DTYPES, strided_array
from torchgraft.reading.tensors import Bytes, FileBytes, TensorView

_MAGIC = b"\x93NUMPY"
_FIELDS = {
    "descr": re.compile(r"(?:'descr'|\"descr\")\s*:\s*(?:'([^']*)'(?=\s*[,}])|\"([^\"]*)\"(?=\s*[,}])|(\[))"),
    "fortran_order": re.compile(r"(?:'fortran_order'|\"fortran_order\")\s*:\s*(True|False)(?=\s*[,}])"),
    "shape": re.compile(
        r"(?:'shape'|\"shape\")\s*:\s*\(\s*((?:-?\d{1,30}L?\s*,\s*)*(?:-?\d{1,30}L?\s*)?)\)(?=\s*[,}])"
    ),
}
_OBJECT = re.compile(r"^[|<>=]?O|(['\"])[|<>=]?O\d*\1")  # alone, or as a part of a structured type
_NOTHING_ELSE = re.compile(r"\s*\{[\s,]*\}\s*")
MAX_HEADER = 65_536
Read = Callable[[int, int], bytes]


def read_npy(window: Window) -> Contents:
    """Return the one array of an .npy file, under the name `arr_0`."""
    view = _array(window.label, "arr_0", window.read, window.size, lambda at, n: FileBytes(window, at, n))
    return Contents(format="npy", tree={"arr_0": view})


def _cut(raw: bytes, at: int, size: int) -> bytes:
    return raw[at : at + size]


def read_npz(archive: ZipArchive) -> Contents:
    """Return the arrays of an .npz file by their names."""
    warnings = archive.warnings
    tree: dict[str, TensorView] = {}
    unfit: list[UnsupportedCheckpointError] = []
    found = {name: read for name, entry in archive.entries.items() if (read := _opened(archive, entry)) is not None}
    others = [n for n in archive.entries if n not in found]
    if others:
        warnings.append(f"left out {counted(len(others), 'member')} beside the arrays, as {printable(others[0], 80)}")
    for name, read in found.items():
        if f"{name}.npy" in archive.entries:
            raise archive.window.corrupt(
                f"the members {printable(name, 80)} and {printable(name, 80)}.npy have one name"
            )
        try:
            tree[name.removesuffix(".npy")] = _member(archive, archive.entries[name], read)
        except UnsupportedCheckpointError as error:  # texts and dates, which lie beside weights
            unfit.append(error)
    if unfit and not tree:
        raise unfit[0]
    if unfit:
        warnings.append(f"left out {counted(len(unfit), 'array')} of no numbers, as {unfit[0]}")
    return Contents(format="npz", tree=tree, warnings=warnings)


def _opened(archive: ZipArchive, entry: ZipEntry) -> Read | None:
    """Return what reads the head of a member, None for one that is no array; its name needn't say that it is one."""
    if entry.method == STORED:
        read = archive.window.part(archive.locate(entry), entry.size).read
    else:
        read = partial(_cut, Inflating(archive, entry).head(MAX_HEADER + 12))
    is_array = entry.name.endswith(".npy") or read(0, min(entry.size, len(_MAGIC))) == _MAGIC
    return read if is_array else None


def _member(archive: ZipArchive, entry: ZipEntry, read: Read) -> TensorView:
    label = f"{archive.window.label}: {printable(entry.name, 80)}"
    made = partial(RecordBytes, archive, archive.entries.number(entry.name))
    return _array(label, entry.name.removesuffix(".npy"), read, entry.size, made)


def _array(label: str, name: str, read: Read, size: int, make: Callable[[int, int], Bytes]) -> TensorView:
    """Return the array whose header `read` gives, `size` bytes in all; `make` gives its data."""
    head = read(0, min(size, 12))
    if not head.startswith(_MAGIC) or len(head) < 10:
        raise CorruptCheckpointError(f"{label}: no numpy array (its first bytes are {head[:6]!r}), or truncated")
    version = (head[6], head[7])
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise CorruptCheckpointError(
            f"{label}: numpy format version {version[0]}.{version[1]}, expected 1.0, 2.0 or 3.0"
        )
    start = 10 if version == (1, 0) else 12
    length = int.from_bytes(head[8:start], "little")
    if length > min(MAX_HEADER, size - start):
        raise CorruptCheckpointError(f"{label}: header of {length} bytes, truncated or false: the file has {size}")
    descr, fortran, shape = _header(label, read(start, length))
    dtype = _dtype(label, name, descr)
    data = start + length
    big = descr.startswith(">")
    return strided_array(label, name, make(data, size - data), dtype, shape, fortran=fortran, big=big)


def _header(label: str, raw: bytes) -> tuple[str, bool, tuple[int, ...]]:
    text = raw.decode("latin-1")
    found = {name: pattern.search(text) for name, pattern in _FIELDS.items()}
    descr, order, shape = found["descr"], found["fortran_order"], found["shape"]
    rest = text
    for match in found.values():
        rest = rest.replace(match[0], "", 1) if match else rest
    if descr is None or order is None or shape is None or not (descr[3] or _NOTHING_ELSE.fullmatch(rest)):
        missing = ", ".join(n for n, m in found.items() if m is None) or "nothing but"
        raise CorruptCheckpointError(
            f"{label}: header {printable(text.strip(), 60)!r} is no table of descr, fortran_order and shape ({missing})"
        )
    numbers = tuple(int(n.strip().rstrip("L")) for n in shape[1].split(",") if n.strip())
    structured = text[descr.start(3) :].partition("'fortran_order'")[0].rstrip(", ") if descr[3] else ""
    return descr[1] or descr[2] or structured, order[1] == "True", numbers


def _dtype(label: str, name: str, descr: str) -> DType:
    if _OBJECT.search(descr):
        raise UnsafeCheckpointError(
            f"{label}: array {printable(name)} holds pickled Python objects (object dtype), not numbers"
        )
    dtype = NUMPY_DTYPES.get(descr.lstrip("|<>="))
    if dtype is None:
        raise UnsupportedCheckpointError(
            f"{label}: array {printable(name)} has dtype {descr!r:.60}, which is no tensor's"
        )
    return dtype
