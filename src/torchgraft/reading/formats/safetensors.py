"""The safetensors format: a JSON header and the bytes it describes, without holes or overlaps."""

from __future__ import annotations

import re
from itertools import pairwise
from math import prod
from typing import Any, NamedTuple

from torchgraft.core.dtypes import SAFETENSORS, DType
from torchgraft.core.errors import CheckpointError, CorruptCheckpointError, printable
from torchgraft.core.facts import TIES, from_texts, stated_ties
from torchgraft.reading.containers.strict_json import loads
from torchgraft.reading.contents import Contents
from torchgraft.reading.disk.files import Window
from torchgraft.reading.tensors import MAX_DIMS, FileBytes, TensorView

MAX_HEADER = 100_000_000
_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
_FIELDS = ("dtype", "shape", "data_offsets")


def read_safetensors(window: Window) -> Contents:
    """Return the tensors of a safetensors file."""
    if window.size < 8:
        raise window.corrupt(f"truncated: {window.size} bytes, a safetensors header needs 8 for its length alone")
    length = int.from_bytes(window.read(0, 8), "little")
    if MAX_HEADER < length < 1 << 40:
        raise window.too_large(f"header of {length} bytes, the format's limit is {MAX_HEADER}")
    if not 2 <= length <= window.size - 8:
        raise window.corrupt(f"truncated, or no safetensors: header of {length} bytes in a file of {window.size}")
    raw = window.read(8, length)
    if not raw.startswith(b"{"):
        raise window.corrupt(f"safetensors header begins with {raw[:4]!r}, expected {{")
    warnings: list[str] = []
    plain = plain_header(window, raw)
    header = {"__metadata__": plain.metadata} if plain else loads(raw, f"{window.label}: header")
    del raw
    if not isinstance(header, dict):
        raise window.corrupt("safetensors header is no JSON object")
    facts = header.pop("__metadata__", None)
    facts = {} if facts is None else facts  # the format's own reader takes null, too
    if not isinstance(facts, dict) or not all(isinstance(v, str) for v in facts.values()):
        raise window.corrupt("__metadata__ holds something else than texts")
    for text in (part for pair in facts.items() for part in pair):
        _check_unicode(window, text, "__metadata__")
    tensors = plain.tensors if plain else _tensors(window, header, 8 + length, warnings)
    metadata = from_texts(facts)
    metadata.pop(TIES, None)
    if ties := stated_ties(facts, tensors):
        metadata[TIES] = ties
    return Contents(format="safetensors", tree=tensors, metadata=metadata, warnings=warnings)


def _tensors(window: Window, header: dict[str, Any], base: int, warnings: list[str]) -> dict[str, TensorView]:
    rows: list[tuple[int, int, str]] = []
    out: dict[str, TensorView] = {}
    shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
    for name in list(header):
        entry = header.pop(name)  # of a million entries, each is let go as its view is made
        dtype, shape, begin, end = _entry(window, name, entry, warnings)
        rows.append((begin, end, name))
        out[name] = TensorView(FileBytes(window, base + begin, end - begin), dtype, shapes.setdefault(shape, shape))
    _check_cover(window, rows, window.size - base)
    if not "".join(out).isprintable():
        for name in out:
            _check_unicode(window, name, "tensor name")
    return out


def _entry(window: Window, name: str, entry: Any, warnings: list[str]) -> tuple[DType, tuple[int, ...], int, int]:
    try:
        label, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (KeyError, TypeError):
        raise _bad(window, name, f"lacks one of {', '.join(_FIELDS)}") from None
    if len(entry) > len(_FIELDS):
        extra = ", ".join(printable(k, 40) for k in entry if k not in _FIELDS)
        warnings.append(f"tensor {printable(name, 80)} has unknown fields: {extra}")
    numel = _numel(window, name, shape)
    if not isinstance(offsets, list) or len(offsets) != 2 or type(offsets[0]) is not int or type(offsets[1]) is not int:
        raise _bad(window, name, f"has data_offsets {offsets!r:.80}, expected two whole numbers")
    begin, end = offsets
    if not 0 <= begin <= end:
        raise _bad(window, name, f"has offsets {begin}, {end}: expected one after the other")
    dtype = SAFETENSORS.get(label) if isinstance(label, str) else None
    if dtype is None:
        raise _no_dtype(window, name, label, shape, end - begin)
    if numel * dtype.itemsize != end - begin:
        needs = f"of {label} {shape!r:.60} needs {numel * dtype.itemsize} bytes, its offsets give {end - begin}"
        raise _bad(window, name, needs)
    return dtype, tuple(shape), begin, end


def _numel(window: Window, name: str, shape: Any) -> int:
    if not isinstance(shape, list):
        raise _bad(window, name, f"has shape {shape!r:.80}, expected whole numbers from 0 on")
    if len(shape) > MAX_DIMS:  # before any arithmetic: a million numbers multiply slowly
        raise window.too_large(f"tensor {printable(name)} has {len(shape)} dimensions")
    numel = 1
    for n in shape:
        if type(n) is not int or not 0 <= n < 1 << 63:
            raise _bad(window, name, f"has shape {shape!r:.80}, expected whole numbers from 0 on")
        numel *= n
    return numel


def _no_dtype(window: Window, name: str, label: Any, shape: list[int], nbytes: int) -> CheckpointError:
    """Return what is wrong with an element type that is not read."""
    if isinstance(label, str) and label in _BITS:
        if prod(shape) * _BITS[label] != 8 * nbytes:
            return _bad(window, name, f"of {label} {shape!r:.60} doesn't fill its {nbytes} bytes")
        return window.unsupported(f"tensor {printable(name)} has dtype {label}, which is not read")
    return _bad(window, name, f"has the unknown dtype {label!r:.40}")


def _check_cover(window: Window, rows: list[tuple[int, int, str]], size: int) -> None:
    rows.sort()
    last = rows[-1][1] if rows else 0
    for (begin, end, name), (after, stop, other) in pairwise(rows):
        if after < end and stop > begin:
            raise _bad(window, other, f"has offsets that overlap those of {printable(name, 80)}")
        if after > end:
            raise _bad(window, other, f"has offset {after}: {after - end} bytes before it belong to no tensor")
    if last > size:
        raise _bad(window, rows[-1][2], f"ends at offset {last}: truncated, the file has {size} bytes of data")
    if (rows and rows[0][0]) or last < size:
        raise window.corrupt(f"{size - last or rows[0][0]} bytes of data belong to no tensor")


def _check_unicode(window: Window, text: str, what: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise window.corrupt(f"{what} {printable(text)} holds half of a surrogate pair") from None


def _bad(window: Window, name: str, text: str) -> CorruptCheckpointError:
    return window.corrupt(f"tensor {printable(name, 120)} {text}")


# A shortcut: JSON has many ways to write the same. A header in the usual one, with the tensors in the order of their bytes,
# is understood entry by entry, without a tree of a million dictionaries. Whatever differs in the least, or is wrong, is left
# to the careful way, which also says what is wrong. Without a bound on dimensions, each would take memory to go back.
_METADATA = b'{"__metadata__":'
_NUMBER = rb"(?:0|[1-9][0-9]{0,17})"
_ENTRY = re.compile(
    rb'"([^"\\\x00-\x1f]+)":\{"dtype":"([A-Z0-9_]+)","shape":\[((?:' + _NUMBER + rb"(?:,(?=[0-9])|(?=\]))){,64})\],"
    rb'"data_offsets":\[(' + _NUMBER + rb"),(" + _NUMBER + rb")\]\}(,|\} *\Z)"
)


class PlainHeader(NamedTuple):
    """The metadata as it stands there, and the tensors by their names."""

    metadata: Any
    tensors: dict[str, TensorView]


class _Kind(NamedTuple):
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


def plain_header(window: Window, raw: bytes) -> PlainHeader | None:
    """Return what the header `raw` says if it is a usual and sound one, else None."""
    metadata, at = _metadata(window, raw)
    end, base = 0, 8 + len(raw)
    kinds: dict[tuple[bytes, bytes], _Kind | None] = {}
    out: dict[str, TensorView] = {}
    count = 0
    while (found := _ENTRY.match(raw, at)) is not None:
        name, label, dims, first, last, rest = found.groups()
        said = label, dims
        if said not in kinds:
            kinds[said] = _kind(SAFETENSORS.get(label.decode()), dims)
        kind = kinds[said]
        if kind is None or int(first) != end or int(last) != end + kind.nbytes:
            return None
        try:
            out[name.decode()] = TensorView(FileBytes(window, base + end, kind.nbytes), kind.dtype, kind.shape)
        except UnicodeDecodeError:
            return None
        count += 1
        end += kind.nbytes
        at = found.end()
        if rest != b",":
            sound = len(out) == count and base + end == window.size and "__metadata__" not in out
            return PlainHeader(metadata, out) if sound else None
    return None


def _metadata(window: Window, raw: bytes) -> tuple[Any, int]:
    """Return the metadata at the beginning, {} if there are none there, and where the tensors begin."""
    if not raw.startswith(_METADATA):
        return {}, 1
    end = raw.find(b'},"', len(_METADATA)) + 1  # in a text, there would be a backslash before the quotation mark
    try:
        return loads(raw[len(_METADATA) : end], window.label), end + 1
    except CorruptCheckpointError:
        return {}, len(raw)


def _kind(dtype: DType | None, dims: bytes) -> _Kind | None:
    shape = tuple(map(int, dims.split(b","))) if dims else ()
    if dtype is None or len(shape) > MAX_DIMS:
        return None
    nbytes = prod(shape) * dtype.itemsize
    return _Kind(dtype, shape, nbytes) if nbytes < 1 << 63 else None
