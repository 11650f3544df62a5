"""The GGUF format: key-value facts, a table of tensors, and their data. Quantised tensors are named and refused."""

from __future__ import annotations

import struct
from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import printable
from torchgraft.core.formatting import tensors
from torchgraft.reading.contents import Contents
from torchgraft.reading.disk.files import Cursor, Window
from torchgraft.reading.tensors import MAX_DIMS, FileBytes, TensorView

_TYPES = {
    0: DType.F32, 1: DType.F16, 24: DType.I8, 25: DType.I16, 26: DType.I32, 27: DType.I64, 28: DType.F64,
    30: DType.BF16,
}  # fmt: skip
_QUANTISED = {
    2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K",
    14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
    22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
MAX_ARRAY_DEPTH = 4
MAX_ARRAY = 1 << 22  # vocabularies have up to a million entries
MAX_KEPT = 64  # of the values of an array, which are facts beside the weights
MAX_TEXT = 1 << 24
MAX_TENSORS = 1 << 20


def read_gguf(window: Window) -> Contents:
    """Return the tensors of a GGUF file; shapes are in PyTorch's order (slowest dimension first)."""
    cursor = Cursor(window)
    cursor.take(4)
    version = cursor.number("I")
    if version not in (2, 3):
        big = "; the file is big-endian" if version in (2 << 24, 3 << 24) else ""
        raise window.unsupported(f"GGUF version {version}, versions 2 and 3 are read{big}")
    tensors, facts = cursor.number("Q"), cursor.number("Q")
    if tensors > cursor.left // 24:
        raise window.corrupt(
            f"truncated or false: says it holds {tensors} tensors, more than its {window.size} bytes can describe"
        )
    if tensors > MAX_TENSORS:
        raise window.too_large(f"says it holds {tensors} tensors, the limit is {MAX_TENSORS}")
    if facts > cursor.left // 12:
        raise window.corrupt(
            f"truncated or false: says it holds {facts} key-value pairs, more than its {window.size} bytes can hold"
        )
    metadata = _facts(cursor, facts)
    align = metadata.get("general.alignment", 32)
    if type(align) is not int or align <= 0 or align & (align - 1):
        raise window.corrupt(f"general.alignment is {align!r:.20}, expected a power of two (alignment of the data)")
    rows = [_row(cursor) for _ in range(tensors)]
    start = -(-cursor.at // align) * align
    parts = metadata.get("split.count", 1)
    said = (
        [f"part {metadata.get('split.no', 0)!r:.20} (from 0 on) of {parts} of a model"] if parts not in (0, 1) else []
    )
    tree = _tensors(window, rows, start, align)
    return Contents(format="GGUF", tree=tree, metadata=metadata, warnings=said)


def _facts(cursor: Cursor, count: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for _ in range(count):
        key = _name(cursor, "a key")
        if key in out:
            raise cursor.window.corrupt(f"duplicate key {printable(key)}")
        value = _value(cursor, cursor.number("I"), key, 0)
        out[key] = value
    return {k: v for k, v in out.items() if v is not None}


def _value(cursor: Cursor, kind: int, key: str, depth: int) -> Any:
    """Return a value, None for a long array, of which nothing is kept."""
    if kind == _TEXT:
        return _text(cursor, f"the text of {printable(key)}")
    if kind == _ARRAY:
        return _array(cursor, key, depth)
    if kind not in _SCALARS:
        raise cursor.window.corrupt(f"key {printable(key)} has the unknown type {kind}")
    return cursor.number(_SCALARS[kind])


def _array(cursor: Cursor, key: str, depth: int) -> list[Any] | None:
    window = cursor.window
    if depth >= MAX_ARRAY_DEPTH:
        raise window.too_large(f"array {printable(key)} is nested to a depth over {MAX_ARRAY_DEPTH}")
    inner, count = cursor.number("I"), cursor.number("Q")
    least = struct.calcsize("<" + _SCALARS[inner]) if inner in _SCALARS else 8
    if count * least > cursor.left:
        raise window.corrupt(f"truncated: array {printable(key)} of {count} values, {cursor.left} bytes are left")
    if count > MAX_ARRAY:
        raise window.too_large(f"array {printable(key)} of {count} values, the limit is {MAX_ARRAY}")
    if inner in _SCALARS and count > MAX_KEPT:
        cursor.at += count * least
        return None
    kept = [
        value for n in range(count) if (value := _value(cursor, inner, key, depth + 1)) is not None and n < MAX_KEPT
    ]
    return kept if count <= MAX_KEPT else None


def _row(cursor: Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = _name(cursor, "a tensor's name")
    dims = cursor.number("I")
    if dims > MAX_DIMS:
        raise cursor.window.corrupt(f"tensor {printable(name)} has {dims} dimensions, the limit is {MAX_DIMS}")
    shape = struct.unpack(f"<{dims}Q", cursor.take(8 * dims))
    return name, shape[::-1], cursor.number("I"), cursor.number("Q")


def _tensors(
    window: Window, rows: list[tuple[str, tuple[int, ...], int, int]], start: int, align: int
) -> dict[str, TensorView]:
    out: dict[str, TensorView] = {}
    spans: list[tuple[int, int, str]] = []
    quantised = [(name, _QUANTISED[kind]) for name, _, kind, _ in rows if kind in _QUANTISED]
    for name, shape, kind, offset in rows:
        shown = printable(name, 120)
        if name in out:
            raise window.corrupt(f"duplicate tensor {shown}")
        if kind not in _TYPES and kind not in _QUANTISED:
            raise window.unsupported(f"tensor {shown} has the unknown type {kind}")
        if kind in _QUANTISED:
            continue
        numel = 1
        for n in shape:
            numel *= n
        end = offset + numel * _TYPES[kind].itemsize
        if offset % align or start + end > window.size:
            raise window.corrupt(
                f"tensor {shown} lies at offset {offset} (alignment {align}) and ends at byte {start + end}: truncated or "
                f"false, the file has {window.size}"
            )
        spans.append((offset, end, shown))
        out[name] = TensorView(FileBytes(window, start + offset, end - offset), _TYPES[kind], shape)
    if quantised:
        name, label = quantised[0]
        are = "is" if len(quantised) == 1 else "are"
        raise window.unsupported(
            f"{tensors(len(quantised))} {are} quantised, as {printable(name, 80)} ({label}); convert the file to F16, BF16 or "
            "F32 first"
        )
    _check_cover(window, sorted(spans), start, align)
    return out


def _check_cover(window: Window, spans: list[tuple[int, int, str]], start: int, align: int) -> None:
    end, before = 0, ""
    for begin, stop, name in spans:
        if begin < end:
            raise window.corrupt(f"tensors {before} and {name} overlap")
        if begin > -(-end // align) * align:
            where = f"between tensors {before} and {name}" if before else "before the first tensor"
            raise window.corrupt(f"{begin - end} bytes {where} belong to nothing")
        end, before = stop, name
    last = start + -(-end // align) * align
    if last < window.size:
        raise window.corrupt(f"{window.size - last} bytes after the last tensor belong to nothing")


def _text(cursor: Cursor, what: str) -> str:
    return _raw(cursor, what).decode("utf-8", "replace")


def _raw(cursor: Cursor, what: str) -> bytes:
    count = cursor.number("Q")
    if count > cursor.left:
        raise cursor.window.corrupt(f"truncated: {what} of {count} bytes, {cursor.left} are left")
    if count > MAX_TEXT:
        raise cursor.window.too_large(f"{what} of {count} bytes, the limit is {MAX_TEXT}")
    return cursor.take(count)


def _name(cursor: Cursor, what: str) -> str:
    """Return a name. In it nothing may be lost: replaced characters would make two names one."""
    at = cursor.at
    try:
        return _raw(cursor, what).decode()
    except UnicodeDecodeError as error:
        raise cursor.window.corrupt(f"{what} at byte {at} is not UTF-8") from error
