"""HDF5 files (Keras and others) through h5py. Nothing outside the file is followed: no external links or storage."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, takewhile
from math import prod
from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import printable
from torchgraft.core.names import above
from torchgraft.core.specs import Shape
from torchgraft.reading.contents import Contents
from torchgraft.reading.disk.files import Window
from torchgraft.reading.finding.tree import plain_facts
from torchgraft.reading.formats.hdf5_texts import Texts
from torchgraft.reading.tensors import StoredTensor

MAX_DEPTH = 64
MAX_AGAIN = 1000
MAX_GROWTH = 64 << 20
MAX_NAMES = 1 << 20
_PARTS = ("model_weights", "optimizer_weights")
# Attributes in which Keras says in which order a model has its layers, and a layer its weights; HDF5 sorts names.
_ORDERS = ("layer_names", "weight_names")


class _Reader(io.RawIOBase):
    """The window as a file object, so that h5py reads through our descriptor."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.window.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(min(len(view), self.window.size - self.at), 0)
        self.window.read_into(view[:count], self.at)
        self.at += count
        return count


def read_hdf5(window: Window) -> Contents:
    """Return the numeric datasets of an HDF5 file by their dotted paths."""
    try:
        import h5py
    except ImportError as error:
        raise window.unsupported("an HDF5 file; to read it install h5py (pip install torchgraft[hdf5])") from error
    try:
        file = h5py.File(_Reader(window), "r")
        walker = _Walker(window, file, h5py)
        walker.group(file["/"], (), ())
        facts = _facts(file, h5py)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        word = "truncated or broken" if "truncated" in str(error) or "eof" in str(error) else "broken"
        raise window.corrupt(f"{word} HDF5 file ({str(error)[:160]})") from error
    if walker.warnings and not walker.found:
        raise window.unsupported(f"no tensors in it: {walker.warnings[0]}")
    tree: dict[str, Any] = walker.in_order()
    if any(k.startswith(f"{_PARTS[0]}.") for k in tree):
        parts: dict[str, Any] = {p: {} for p in _PARTS}
        for key, tensor in tree.items():
            head, _, rest = key.partition(".")
            parts.setdefault(head, {})[rest] = tensor
        tree = parts
    return Contents(
        format="HDF5", tree=tree, metadata={k: v for k, v in facts.items() if v is not None}, warnings=walker.warnings
    )


class _Walker:
    def __init__(self, window: Window, file: Any, h5py: Any) -> None:
        self.window = window
        self.h5py = h5py
        start = file.userblock_size
        self.texts = Texts(window.part(start, window.size - start))
        self.found: dict[str, H5Tensor] = {}
        self.warnings: list[str] = []
        self.seen: set[int] = set()
        self.again = 0
        self.said: dict[tuple[str, ...], int] = {}

    def group(self, group: Any, path: tuple[str, ...], above: tuple[int, ...]) -> None:
        """Collect the datasets below `group`."""
        address = self.h5py.h5o.get_info(group.id).addr
        where = "/".join(path)
        if address in above:
            raise self.window.corrupt(f"group {printable(where)} is a loop: it contains itself")
        if len(path) > MAX_DEPTH:
            raise self.window.too_large(f"groups nested to a depth of more than {MAX_DEPTH}")
        self.again += address in self.seen
        self.seen.add(address)
        if self.again > MAX_AGAIN:
            raise self.window.too_large(f"more than {MAX_AGAIN} further ways to groups seen before")
        for at, name in enumerate(name for order in _ORDERS for name in self._names_listed(group, order, address)):
            self.said[(*path, *name.split("/"))] = at
        for name in group:
            shown = name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")
            self._member(group, name, (*path, shown), (*above, address))

    def _names_listed(self, group: Any, order: str, address: int) -> Iterator[str]:
        """Yield the names that an attribute lists, or several where it was too long for one: `layer_names0`, `layer_names1`."""
        attributes = group.attrs
        found = [order] if order in attributes else takewhile(attributes.__contains__, (f"{order}{n}" for n in count()))
        for name in found:
            listed = attributes.get_id(name)
            kind = listed.get_type()
            if prod(listed.shape or (0,)) > MAX_NAMES or not isinstance(kind, self.h5py.h5t.TypeStringID):
                continue
            values = self.texts.of(address, name) if kind.is_variable_str() else _plain(attributes[name])
            yield from (value for value in (values if isinstance(values, list) else []) if isinstance(value, str))

    def in_order(self) -> dict[str, H5Tensor]:
        """Return the datasets in the order that the file says, or else that of their names."""
        if not self.said:
            return self.found
        said = {".".join(path): at for path, at in self.said.items()}
        return dict(sorted(self.found.items(), key=lambda entry: _ranks(entry[0], said)))

    def _member(self, group: Any, name: str | bytes, path: tuple[str, ...], above: tuple[int, ...]) -> None:
        where = printable("/".join(path))
        link = group.get(name, getlink=True)
        if isinstance(link, self.h5py.ExternalLink):
            raise self.window.unsafe(f"{where} is an external link, to {link.filename!r:.60}")
        try:
            item = group[name]
        except (KeyError, OSError, RuntimeError) as error:
            raise self.window.corrupt(f"link {where} leads nowhere (a loop of links, or no target)") from error
        if isinstance(item, self.h5py.Group):
            self.group(item, path, above)
        elif isinstance(item, self.h5py.Dataset):
            self._dataset(item, path, where)

    def _dataset(self, item: Any, path: tuple[str, ...], where: str) -> None:
        if item.is_virtual:
            raise self.window.unsafe(f"dataset {where} is virtual: its values lie in other files")
        if item.external:
            raise self.window.unsafe(f"dataset {where} has external storage, {item.external[0][0]!r:.60}")
        kind, dtype = _dtype(item)
        if dtype is None:
            self.warnings.append(f"dataset {where} has dtype {kind:.80}, which is no tensor's; left out")
            return
        if item.shape is None:
            self.warnings.append(f"dataset {where} is empty (it has no shape); left out")
            return
        nbytes = prod(item.shape) * dtype.itemsize
        if nbytes > MAX_GROWTH and nbytes > 200 * max(item.id.get_storage_size(), 1):
            raise self.window.too_large(f"dataset {where} has {nbytes} bytes, of which hardly any are stored")
        piece = prod(item.chunks or ()) * dtype.itemsize
        if piece > MAX_GROWTH and piece > 2 * nbytes:
            raise self.window.too_large(
                f"dataset {where} of {nbytes} bytes is kept in pieces of {piece}, each read as a whole"
            )
        if nbytes and not item.id.get_storage_size():
            self.warnings.append(f"dataset {where} was never written: its values are what fills gaps")
        key = ".".join(path)
        if key in self.found:
            raise self.window.corrupt(f"two datasets would both be called {printable(key)}")
        self.found[key] = H5Tensor(self.window, item, tuple(item.shape), dtype, len(self.found))


def _dtype(item: Any) -> tuple[str, DType | None]:
    """Return what numpy calls the element type of a dataset, and the tensor's type, None where there is none."""
    try:
        kind = item.dtype
    except TypeError as error:  # numbers of three bytes: numpy has no word for them
        return str(error), None
    try:
        return str(kind), DType.of("bool" if kind.kind == "b" else kind.newbyteorder("=").name)
    except KeyError:
        return str(kind), None


@dataclass(slots=True, eq=False)
class H5Tensor(StoredTensor):
    """A dataset. It is read as a whole, since it may be compressed; takes its size twice."""

    window: Window
    item: Any
    shape: Shape
    dtype: DType
    number: int

    @property
    def position(self) -> tuple[int, int]:
        """File number and offset of a contiguous dataset, its running number otherwise."""
        return self.window.file.number, self.item.id.get_offset() or self.number

    def fill(self, buffer: memoryview, start: int) -> None:
        import numpy as np

        try:
            value = np.ascontiguousarray(self.item[()])
        except (OSError, RuntimeError, ValueError) as error:
            raise self.window.corrupt(
                f"dataset {printable(self.item.name)} can't be read: {str(error)[:120]}"
            ) from error
        native = value.astype(value.dtype.newbyteorder("="), copy=False)
        buffer[:] = native.reshape(-1).view(np.uint8).data[start : start + len(buffer)]


def _ranks(key: str, said: Mapping[str, int]) -> list[int]:
    """Return the places of a dataset, and of each group around it, the outermost first; 0 where nothing is said."""
    return [said.get(path, 0) for path in (*reversed([*above(key)]), key)]


def _is_of_one_length(kind: Any, h5py: Any) -> bool:
    return isinstance(kind, h5py.h5t.TypeStringID) and not kind.is_variable_str()


def _facts(file: Any, h5py: Any) -> dict[str, Any]:
    """Return the file's attributes. Those of variable length are left out: in broken files the library loops over them."""
    out = {}
    for name in file.attrs:
        kind = file.attrs.get_id(name).get_type()
        if isinstance(kind, h5py.h5t.TypeIntegerID | h5py.h5t.TypeFloatID) or _is_of_one_length(kind, h5py):
            out[str(name)] = plain_facts(_plain(file.attrs[name]))
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if hasattr(value, "tolist"):
        return [_plain(v) for v in value.tolist()] if getattr(value, "ndim", 0) else _plain(value.item())
    return value
