"""The tensors of ONNX models: their description, checked, and where their bytes lie."""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import CorruptCheckpointError, UnsafeCheckpointError, printable
from torchgraft.reading.containers.protobuf import BYTES, FIXED32, FIXED64, VARINT, Messages, Span
from torchgraft.reading.disk.files import Window
from torchgraft.reading.disk.paths import name_fault, open_beside
from torchgraft.reading.tensors import MAX_DIMS, Bytes, FileBytes, JoinedBytes, TensorView

if TYPE_CHECKING:
    import numpy as np

    _Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]
    _Places = np.ndarray[tuple[int], np.dtype[np.intp]]

_LONGEST = 10
_BLOCK = 1 << 20


class Varints:
    """The numbers in `size` bytes at `at`, as elements of `dtype`: a storage. They are read in blocks, each by itself."""

    __slots__ = ("_before", "at", "dtype", "nbytes", "size", "window")

    def __init__(self, window: Window, at: int, size: int, dtype: DType) -> None:
        self.window = window
        self.at = at
        self.size = size
        self.dtype = dtype
        self._before = [0]  # how many numbers end before each block
        for block in range(-(-size // _BLOCK)):
            self._before.append(self._before[-1] + len(self._block(block)[2]))
        self.nbytes = self._before[-1] * dtype.itemsize

    @property
    def position(self) -> tuple[int, int]:
        return self.window.position(self.at)

    def fill(self, buffer: memoryview, start: int) -> None:
        import numpy as np

        size, stop = self.dtype.itemsize, start + len(buffer)
        for block in range(bisect_right(self._before, start // size) - 1, len(self._before) - 1):
            first = self._before[block] * size
            if first >= stop:
                break
            held = self._values(block).view(np.uint8).data
            low, high = max(start, first), min(stop, first + len(held))
            buffer[low - start : high - start] = held[low - first : high - first]

    def _values(self, block: int) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
        """Return the numbers that end in a block."""
        import numpy as np

        raw, starts, ends = self._block(block)
        value = np.zeros(len(ends), dtype=np.uint64)
        for i in range(int((ends - starts).max(initial=-1)) + 1):
            more = np.flatnonzero(starts + i <= ends)
            value[more] |= (raw[starts[more] + i] & np.uint8(127)).astype(np.uint64) << np.uint64(7 * i)
        narrow = value.astype(f"<{'i' if self.dtype.kind == 'int' else 'u'}{self.dtype.itemsize}")
        if (narrow.astype(np.int64).view(np.uint64) != value).any():
            raise self.window.corrupt(f"the packed numbers at byte {self.at} don't fit the element type {self.dtype}")
        return narrow

    def _block(self, block: int) -> tuple[_Bytes, _Places, _Places]:
        """Return the bytes of a block, with those of a number that began before it, and where numbers begin and end in them."""
        import numpy as np

        begin = max(block * _BLOCK - _LONGEST, 0)
        end = min((block + 1) * _BLOCK, self.size)
        raw = np.frombuffer(self.window.read(self.at + begin, end - begin), dtype=np.uint8)
        ends = np.flatnonzero(raw < 128)
        before = np.concatenate(([-1], ends[:-1])) if len(ends) else ends
        inside = ends >= block * _BLOCK - begin
        starts, ends = before[inside] + 1, ends[inside]
        whole = end < self.size or (len(raw) > 0 and raw[-1] < 128)
        known = not begin or (raw[:_LONGEST] < 128).any()  # where a number begins that ends in this block
        if not whole or not known or (ends - starts).max(initial=0) >= _LONGEST:
            raise self.window.corrupt(
                f"truncated or false: the packed numbers at byte {self.at} don't end as they must"
            )
        return raw, starts, ends


_TYPES = {
    1: DType.F32, 2: DType.U8, 3: DType.I8, 4: DType.U16, 5: DType.I16, 6: DType.I32, 7: DType.I64, 9: DType.BOOL,
    10: DType.F16, 11: DType.F64, 12: DType.U32, 13: DType.U64, 14: DType.C64, 15: DType.C128, 16: DType.BF16,
    17: DType.F8_E4M3FN, 18: DType.F8_E4M3FNUZ, 19: DType.F8_E5M2, 20: DType.F8_E5M2FNUZ, 24: DType.F8_E8M0FNU,
}  # fmt: skip
_TEXT = 8
_PACKED = {21: "uint4", 22: "int4", 23: "float4_e2m1", 25: "uint2", 26: "int2"}
# The typed fields, and which types of element each may hold.
_FLOATS, _INTS32, _INTS64, _RAW, _DOUBLES, _UINTS64 = 4, 5, 7, 9, 10, 11
_FITS = {
    _FLOATS: {1, 14},
    _INTS32: {2, 3, 4, 5, 6, 9, 10, 16, 17, 18, 19, 20, 24},
    _INTS64: {7},
    _RAW: set(_TYPES),
    _DOUBLES: {11, 15},
    _UINTS64: {12, 13},
}
_VARINTS = {_INTS32, _INTS64, _UINTS64}
# How each field of a tensor may be written; of numbers that repeat, one by one or many together.
_WIRES = {
    1: {VARINT, BYTES}, 2: {VARINT}, 3: {BYTES}, _FLOATS: {FIXED32, BYTES}, _INTS32: {VARINT, BYTES},
    _INTS64: {VARINT, BYTES}, 8: {BYTES}, _RAW: {BYTES}, _DOUBLES: {FIXED64, BYTES}, _UINTS64: {VARINT, BYTES},
    13: {BYTES}, 14: {VARINT},
}  # fmt: skip
_WIDTHS = {_FLOATS: 4, _DOUBLES: 8}


@dataclass(slots=True, kw_only=True)
class Initialiser:
    """A TensorProto as it stands in the file."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    kind: int = 0
    data: dict[int, list[Span]] = field(default_factory=dict)
    external: dict[str, str] = field(default_factory=dict)
    is_external: bool = False
    in_segments: bool = False

    @property
    def is_text(self) -> bool:
        """Whether its elements are strings."""
        return self.kind == _TEXT

    @property
    def refusal(self) -> str:
        """Why it can't be read though it may be sound, "" where it can."""
        if self.kind in _PACKED:
            return _PACKED[self.kind]
        if self.kind not in _TYPES and self.kind not in (0, _TEXT):
            return f"the unknown element type {self.kind}"
        return "in segments" if self.in_segments else ""

    def view(self, window: Window) -> TensorView:
        """Return it as a tensor."""
        shown = printable(self.name, 120)
        dtype = _TYPES.get(self.kind)
        if dtype is None:
            raise window.corrupt(f"tensor {shown} has no element type")
        if len(self.dims) > MAX_DIMS:
            raise window.too_large(f"tensor {shown} has {len(self.dims)} dimensions, at most {MAX_DIMS}")
        if any(n < 0 for n in self.dims):
            raise window.corrupt(f"tensor {shown} has the shape {self.dims!r:.60}: expected whole numbers from 0 on")
        need = prod(self.dims) * dtype.itemsize
        if self.is_external:
            return TensorView(self._beside(window, need), dtype, tuple(self.dims))
        source = self._inside(window, dtype, shown)
        if source.nbytes != need:
            raise window.corrupt(
                f"tensor {shown} holds {source.nbytes} bytes, its shape {self.dims!r:.60} of {dtype} needs {need}"
            )
        return TensorView(source, dtype, tuple(self.dims))

    def _inside(self, window: Window, dtype: DType, shown: str) -> Bytes:
        filled = [number for number, spans in self.data.items() if any(s.size for s in spans)]
        if not filled:
            return FileBytes(window, 0, 0)
        number = filled[0]
        if len(filled) > 1 or self.kind not in _FITS.get(number, ()):
            raise window.corrupt(f"tensor {shown} of {dtype} has its values in field {filled}, which is not theirs")
        spans = self.data[number]
        parts: list[Bytes]
        if number in _VARINTS:
            parts = [Varints(window, span.at, span.size, dtype) for span in spans]
        else:
            parts = [FileBytes(window, span.at, span.size) for span in spans]
        return parts[0] if len(parts) == 1 else JoinedBytes(parts)

    def _beside(self, window: Window, need: int) -> FileBytes:
        """Return the bytes of a tensor that lie in another file of the folder."""
        label, shown = window.label, printable(self.name, 80)
        name = self.external.get("location", "")
        fault = name_fault(name)
        if fault:
            raise UnsafeCheckpointError(
                f"{label}: tensor {shown} lies in {printable(name)!r:.120}: {fault}; expected a file beside the model"
            )
        offset = _number(label, shown, self.external.get("offset", "0"), "offset")
        length = _number(label, shown, self.external.get("length", str(need)), "length")
        if length != need:
            raise window.corrupt(f"tensor {shown} has {length} bytes in {printable(name, 80)}, its shape needs {need}")
        other = open_beside(window.file, name).window()
        if os.path.sameopenfile(window.file.fd, other.file.fd):
            raise window.corrupt(
                f"tensor {shown} lies in the model itself, whose bytes are names and shapes; expected a file beside it"
            )
        if offset + need > other.size:
            raise other.corrupt(
                f"truncated: tensor {shown} of {printable(label, 80)} ends at byte {offset + need}, the file has {other.size}"
            )
        return FileBytes(other, offset, need)


def read_initialiser(messages: Messages, span: Span) -> Initialiser:
    """Return the TensorProto at `span`; none of its data is read."""
    out = Initialiser()
    for number, wire, value, part in messages.fields(span):
        if (
            wire not in _WIRES.get(number, {wire})
            or part.size % _WIDTHS.get(number, 1)
            or (number == _RAW and _RAW in out.data)
        ):
            raise messages.window.corrupt(
                f"field {number} of the tensor at byte {span.at} is written as none of its kind (wire type {wire}, {part.size} "
                "bytes), or twice"
            )
        if number == 1:
            out.dims += messages.integers(wire, value, part)
        elif number in _FITS:
            out.data.setdefault(number, []).append(part)
        elif wire == BYTES:
            _text_field(messages, out, number, part)
        else:
            _number_field(messages, out, number, value)
    return out


def _text_field(messages: Messages, out: Initialiser, number: int, part: Span) -> None:
    if number == 3:
        out.in_segments = True
    elif number == 8:
        out.name = messages.text(part)
    elif number == 13:
        key, text = _entry(messages, part)
        if key in out.external:
            raise messages.window.corrupt(f"duplicate {printable(key, 40)} in the external data at byte {part.at}")
        out.external[key] = text


def _number_field(messages: Messages, out: Initialiser, number: int, value: int) -> None:
    if number == 2:
        out.kind = value
    elif number == 14:
        if value not in (0, 1):
            raise messages.window.corrupt(f"tensor {printable(out.name)} has the unknown data location {value}")
        out.is_external = value == 1


def _entry(messages: Messages, span: Span) -> tuple[str, str]:
    key = text = ""
    for number, wire, _, part in messages.fields(span):
        if wire == BYTES and number == 1:
            key = messages.text(part, 4096)
        elif wire == BYTES and number == 2:
            text = messages.text(part, 4096)
    return key, text


def _number(label: str, shown: str, text: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise CorruptCheckpointError(
            f"{label}: tensor {shown} has the {what} {printable(text, 30)!r} in its external data, no whole number from 0 on"
        )
    return int(text)
