"""Plain data and tensors as a pickle, written opcode by opcode: what `torch.load(weights_only=True)` takes, no more.

Source of the opcodes: the comments of Lib/pickletools.py in CPython. How torch spells a tensor: `_reduce_ex_internal` in
torch/_tensor.py, and `persistent_id` in torch/serialization.py.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.specs import Shape, TensorSpec, c_strides

MAX_DEPTH = 100
# Types that torch has had a storage class for since before 1.6; it saves others as untyped bytes.
_STORAGES = {
    DType.F64: "DoubleStorage", DType.F32: "FloatStorage", DType.F16: "HalfStorage", DType.BF16: "BFloat16Storage",
    DType.I64: "LongStorage", DType.I32: "IntStorage", DType.I16: "ShortStorage", DType.I8: "CharStorage",
    DType.U8: "ByteStorage", DType.BOOL: "BoolStorage", DType.C64: "ComplexFloatStorage",
    DType.C128: "ComplexDoubleStorage",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor whose values are the storage `key`, all of it, in C order."""

    key: str
    spec: TensorSpec


def pickled(value: object, versions: Mapping[str, object] | None = None) -> bytes:
    """Return a pickle (protocol 2) of a state dict; `versions` becomes its `_metadata`.

    Raises:
        UsageError: something in it is neither a tensor nor plain data.
    """
    writer = _Writer()
    writer.emit(b"\x80\x02")
    writer.value(value, "the state dict")
    if versions is not None:
        writer.emit(b"}")
        writer.value("_metadata", "")
        writer.value(OrderedDict(versions), "_metadata")
        writer.emit(b"sb")
    writer.emit(b".")
    return b"".join(writer.parts)


class _Writer:
    """Appends opcodes. Only what every tensor repeats is remembered and referred to."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.emit = self.parts.append
        self.known: dict[bytes, int] = {}
        self.depth = 0

    def value(self, value: object, where: str) -> None:
        """Append one value, called `where` in errors."""
        if isinstance(value, Stored):
            self._tensor(value)
        elif value is None or isinstance(value, bool):
            self.emit({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            self._int(int(value))
        elif isinstance(value, float):
            self.emit(b"G" + struct.pack(">d", value))
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, (Mapping, list, tuple)):
            self._inside(value, where)
        else:
            raise UsageError(
                f"{printable(where)} is a {type(value).__name__}: neither a tensor nor plain data, which is all that "
                "torch.load takes without running code"
            )

    def _inside(self, value: Mapping[object, object] | list[object] | tuple[object, ...], where: str) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UsageError(f"{printable(where)}: nested to a depth of more than {MAX_DEPTH}")
        if isinstance(value, Mapping):
            if isinstance(value, OrderedDict):
                self._constant(b"ccollections\nOrderedDict\n")
            self.emit(b")R(" if isinstance(value, OrderedDict) else b"}(")
            for key, item in value.items():
                self.value(key, f"a key of {where}")
                self.value(item, f"{where}.{key}")
            self.emit(b"u")
        else:
            self.emit(b"](" if isinstance(value, list) else b"(")
            for number, item in enumerate(value):
                self.value(item, f"{where}.{number}")
            self.emit(b"e" if isinstance(value, list) else b"t")
        self.depth -= 1

    def _int(self, value: int) -> None:
        if 0 <= value < 256:
            self.emit(b"K" + bytes([value]))
        elif -(1 << 31) <= value < 1 << 31:
            self.emit(b"J" + struct.pack("<i", value))
        else:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            if len(raw) > 255:
                raise UsageError(f"a whole number of {len(raw)} bytes is more than a checkpoint should hold")
            self.emit(b"\x8a" + bytes([len(raw)]) + raw)

    def _text(self, value: str) -> None:
        raw = value.encode("utf-8", "surrogatepass")
        self.emit(b"X" + struct.pack("<I", len(raw)) + raw)

    def _constant(self, opcodes: bytes) -> None:
        """Append the opcodes of something that comes again and again, the second time as a reference."""
        number = self.known.get(opcodes)
        if number is not None:
            self.emit(b"h" + bytes([number]))
            return
        number = self.known[opcodes] = len(self.known)
        self.emit(opcodes + b"q" + bytes([number]))

    def _tensor(self, value: Stored) -> None:
        spec = value.spec
        storage = _STORAGES.get(spec.dtype)
        self._constant(b"ctorch._utils\n_rebuild_tensor_v%d\n" % (2 if storage else 3))
        self.emit(b"((")
        self._constant(b"X\x07\x00\x00\x00storage")
        self._constant(f"ctorch\n{storage}\n".encode() if storage else b"ctorch.storage\nUntypedStorage\n")
        self._text(value.key)
        self._constant(b"X\x03\x00\x00\x00cpu")
        self._int(spec.numel if storage else spec.nbytes)
        self.emit(b"tQK\x00")
        self._shape(spec.shape)
        self._shape(c_strides(spec.shape))
        self.emit(b"\x89")
        self._constant(b"ccollections\nOrderedDict\n")
        self.emit(b")R")
        if not storage:
            self._constant(f"ctorch\n{spec.dtype}\n".encode())
        self.emit(b"tR")

    def _shape(self, shape: Shape) -> None:
        self.emit(b"(" if shape else b")")
        for n in shape:
            self._int(n)
        if shape:
            self.emit(b"t")
