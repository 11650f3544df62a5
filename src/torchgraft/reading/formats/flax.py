"""Flax's msgpack files: nested maps of arrays, with the weights and the running statistics of one model as one network.

How arrays are packed is read from https://github.com/google/flax/blob/main/flax/serialization.py: extension 1 is an array
as (shape, name of the element type, bytes), 2 a complex number, 3 a numpy scalar packed as an array; arrays over 1 GiB
are cut into chunks. What collections mean: https://flax-linen.readthedocs.io/ (params, batch_stats).
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import printable
from torchgraft.reading.contents import Contents
from torchgraft.reading.disk.files import Cursor, Window
from torchgraft.reading.tensors import MAX_DIMS, FileBytes, JoinedBytes, TensorView

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
MAX_PLAIN = 64  # of plain values in a list, which are facts beside the weights
_CHUNKED = "__msgpack_chunked_array__"
PARAMS, STATS = "params", "batch_stats"


def read_flax(window: Window) -> Contents:
    """Return the arrays of a Flax checkpoint by dotted names, one network for each model in it."""
    tree = Unpacker(window, _extension).value()
    return Contents(format="Flax msgpack", tree=_arranged(window, _whole(window, tree, "")))


def _extension(kind: int, window: Window, at: int) -> Any:
    if kind in (_ARRAY, _SCALAR):
        return _array(window, at)
    if kind == _COMPLEX:
        pair = Unpacker(window, base=at).value()
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(v, (int, float)) for v in pair):
            raise window.corrupt(f"the complex number at byte {at} is no pair of numbers")
        return complex(*pair)
    raise window.unsupported(f"a msgpack extension of type {kind} at byte {at}; Flax has 1 to 3")


def _array(window: Window, at: int) -> TensorView:
    facts = Unpacker(window, base=at).value()
    if not isinstance(facts, list) or len(facts) != 3 or not isinstance(facts[2], Blob):
        raise window.corrupt(f"the array at byte {at} is not packed as shape, element type and bytes")
    shape, label, data = facts
    if isinstance(label, Blob):
        label = window.read(label.at, min(label.size, 32)).decode("latin-1")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise window.corrupt(f"the array at byte {at} has the shape {shape!r:.60}: expected whole numbers from 0 on")
    if len(shape) > MAX_DIMS:
        raise window.too_large(f"the array at byte {at} has {len(shape)} dimensions, at most {MAX_DIMS}")
    try:
        dtype = DType.of(str(label))
    except KeyError as error:
        raise window.unsupported(
            f"the array at byte {at} has the element type {printable(str(label), 40)!r}, which is no tensor's"
        ) from error
    need = prod(shape) * dtype.itemsize
    if need != data.size:
        raise window.corrupt(
            f"the array at byte {at} has {data.size} bytes, its shape {shape!r:.60} of {dtype} needs {need}"
        )
    return TensorView(FileBytes(window, data.at, data.size), dtype, tuple(shape))


def _whole(window: Window, node: Any, name: str) -> Any:
    """Return `node` with its chunked arrays put together, and without bytes that are no array."""
    if isinstance(node, dict):
        if _CHUNKED in node:
            return _chunked(window, node, name)
        return {k: _whole(window, v, f"{name}.{k}" if name else str(k)) for k, v in node.items()}
    if isinstance(node, list) and not any(isinstance(v, (TensorView, dict, list)) for v in node):
        return [None if isinstance(v, Blob) else v for v in node[:MAX_PLAIN]]
    if isinstance(node, list):
        return {str(i): _whole(window, v, f"{name}.{i}") for i, v in enumerate(node)}
    return None if isinstance(node, Blob) else node


def _chunked(window: Window, node: dict[Any, Any], name: str) -> TensorView:
    sizes, chunks = _numbered(node.get("shape")), _numbered(node.get("chunks"))
    if not chunks or not all(isinstance(c, TensorView) and len(c.shape) == 1 for c in chunks):
        raise window.corrupt(f"tensor {printable(name)} is in chunks, but they are no flat arrays numbered from 0 on")
    if sizes is None or not all(type(n) is int and n >= 0 for n in sizes) or len(sizes) > MAX_DIMS:
        raise window.corrupt(f"tensor {printable(name)} has the shape {node.get('shape')!r:.60}")
    dtype = chunks[0].dtype
    source = JoinedBytes([c.source for c in chunks])
    if any(c.dtype is not dtype for c in chunks) or source.nbytes != prod(sizes) * dtype.itemsize:
        raise window.corrupt(
            f"tensor {printable(name)} has chunks of {source.nbytes} bytes in all, its shape {sizes!r:.60} of {dtype} needs "
            f"{prod(sizes) * dtype.itemsize}"
        )
    return TensorView(source, dtype, tuple(sizes))


def _numbered(node: Any) -> list[Any] | None:
    """Return the values of {"0": ..., "1": ...}, None where it is no such table."""
    if not isinstance(node, dict) or set(node) != {str(i) for i in range(len(node))}:
        return None
    return [node[str(i)] for i in range(len(node))]


def _arranged(window: Window, node: Any) -> Any:
    """Return `node` with each model flat: a dictionary of dotted names."""
    if not isinstance(node, dict):
        return node
    if isinstance(node.get(PARAMS), dict):
        rest = {k: _flat(window, v) if isinstance(v, dict) else v for k, v in node.items() if k != PARAMS}
        weights = _flat(window, node[PARAMS])
        stats = rest.get(STATS)
        if isinstance(stats, dict) and not stats.keys() & weights.keys():
            weights |= rest.pop(STATS)
        return {PARAMS: weights, **rest} if rest else weights
    if any(_has_params(v) for v in node.values()):
        return {k: _arranged(window, v) for k, v in node.items()}
    return _flat(window, node)


def _has_params(node: Any) -> bool:
    return isinstance(node, dict) and (isinstance(node.get(PARAMS), dict) or any(_has_params(v) for v in node.values()))


def _flat(window: Window, node: dict[Any, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    todo: list[tuple[str, Any]] = [(str(k), v) for k, v in reversed(node.items())]
    while todo:
        name, value = todo.pop()
        if isinstance(value, dict):
            todo += [(f"{name}.{k}", v) for k, v in reversed(value.items())]
        elif name in out:
            raise window.corrupt(f"two tensors would both be called {printable(name)}")
        else:
            out[name] = value
    return out


MAX_DEPTH = 64
MAX_NODES = 1_000_000
FREE_NODES, BYTES_EACH = 100_000, 8  # further values are expected to take so many bytes: a name and an array take 40
MAX_TEXT = 1 << 20
_SCALARS = {
    0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q",
}  # fmt: skip
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_SIZES = {
    0xC4: "B", 0xC5: "H", 0xC6: "I",  # bytes
    0xC7: "B", 0xC8: "H", 0xC9: "I",  # extensions
    0xD9: "B", 0xDA: "H", 0xDB: "I",  # text
    0xDC: "H", 0xDD: "I",  # lists
    0xDE: "H", 0xDF: "I",  # maps
}  # fmt: skip


class Blob(NamedTuple):
    """Bytes that were left in the file."""

    at: int
    size: int


class Unpacker:
    """Reads the one value of a window. `extension(kind, window, offset)` makes a value of an extension's window."""

    __slots__ = ("_base", "_cursor", "_extension", "_most", "_nodes", "window")

    def __init__(
        self, window: Window, extension: Callable[[int, Window, int], Any] | None = None, base: int = 0
    ) -> None:
        self.window = window
        self._cursor = Cursor(window, block=1 << 16)
        self._extension = extension
        self._nodes = 0
        self._most = min(MAX_NODES, FREE_NODES + window.size // BYTES_EACH)
        self._base = base

    def value(self) -> Any:
        """Return the value."""
        out = self._next(0)
        if self._cursor.left:
            raise self.window.corrupt(f"{self._cursor.left} bytes come after the end of the msgpack value")
        return out

    def _next(self, depth: int) -> Any:
        cursor = self._cursor
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > self._most:
            what = f"a depth over {MAX_DEPTH}" if depth > MAX_DEPTH else f"more than {self._most} values"
            raise self.window.too_large(f"msgpack with {what}")
        byte = cursor.number("B")
        if byte < 0x80 or byte >= 0xE0:
            return byte if byte < 0x80 else byte - 256
        if byte in _CONSTANTS:
            return _CONSTANTS[byte]
        if byte in _SCALARS:
            return cursor.number(_SCALARS[byte], ">")
        if 0xD4 <= byte <= 0xD8:
            return self._ext(1 << byte - 0xD4)
        if byte < 0x90:
            return self._map(byte & 15, depth)
        if byte < 0xA0:
            return self._list(byte & 15, depth)
        if byte < 0xC0:
            return self._text(byte & 31)
        if byte not in _SIZES:
            raise self.window.corrupt(f"byte {cursor.at - 1} is {byte:#x}, which begins no msgpack value")
        return self._sized(byte, cursor.number(_SIZES[byte], ">"), depth)

    def _sized(self, byte: int, size: int, depth: int) -> Any:
        if byte <= 0xC6:
            return self._blob(size)
        if byte <= 0xC9:
            return self._ext(size)
        if byte <= 0xDB:
            return self._text(size)
        return self._list(size, depth) if byte <= 0xDD else self._map(size, depth)

    def _room(self, need: int, what: str) -> None:
        if need > self._cursor.left:
            raise self.window.corrupt(
                f"truncated: {what} at byte {self._cursor.at} needs {need} bytes, {self._cursor.left} are left"
            )

    def _text(self, size: int) -> str:
        self._room(size, "a text")
        if size > MAX_TEXT:
            raise self.window.too_large(f"a text of {size} bytes, {MAX_TEXT} are read at most")
        at = self._cursor.at
        try:
            return self._cursor.take(size).decode()
        except UnicodeDecodeError as error:
            raise self.window.corrupt(f"the text at byte {at} is not UTF-8") from error

    def _blob(self, size: int) -> Blob:
        self._room(size, "a run of bytes")
        at = self._cursor.at
        self._cursor.at += size
        return Blob(at, size)

    def _ext(self, size: int) -> Any:
        kind = self._cursor.number("b")
        self._room(size, f"an extension of type {kind}")
        at = self._cursor.at
        self._cursor.at += size
        if self._extension is None:
            raise self.window.corrupt(f"an extension of type {kind} at byte {self._base + at}, where none belongs")
        return self._extension(kind, self.window.part(at, size), at)

    def _list(self, count: int, depth: int) -> list[Any]:
        self._room(count, f"a list of {count} values")
        return [self._next(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[Any, Any]:
        self._room(2 * count, f"a map of {count} entries")
        out: dict[Any, Any] = {}
        for _ in range(count):
            key = self._next(depth + 1)
            if not isinstance(key, (str, int)):
                raise self.window.corrupt(
                    f"a key of type {type(key).__name__} before byte {self._cursor.at}, expected text"
                )
            if key in out:
                raise self.window.corrupt(f"duplicate key {printable(str(key))}")
            out[key] = self._next(depth + 1)
        return out
