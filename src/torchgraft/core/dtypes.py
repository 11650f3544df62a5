"""Element types without torch, so that planning never has to import it."""

from __future__ import annotations

from enum import Enum


class DType(Enum):
    """An element type: name as torch spells it, size in bytes, kind, bits of mantissa, and the exponents (of 2) of its smallest
    and its greatest number; whole numbers have none.
    """

    BOOL = ("bool", 1, "bool", 1, 0, 0)
    U8 = ("uint8", 1, "uint", 8, 0, 0)
    U16 = ("uint16", 2, "uint", 16, 0, 0)
    U32 = ("uint32", 4, "uint", 32, 0, 0)
    U64 = ("uint64", 8, "uint", 64, 0, 0)
    I8 = ("int8", 1, "int", 7, 0, 0)
    I16 = ("int16", 2, "int", 15, 0, 0)
    I32 = ("int32", 4, "int", 31, 0, 0)
    I64 = ("int64", 8, "int", 63, 0, 0)
    F8_E4M3FN = ("float8_e4m3fn", 1, "float", 4, -9, 8)
    F8_E5M2 = ("float8_e5m2", 1, "float", 3, -16, 15)
    F8_E4M3FNUZ = ("float8_e4m3fnuz", 1, "float", 4, -10, 7)
    F8_E5M2FNUZ = ("float8_e5m2fnuz", 1, "float", 3, -17, 15)
    F8_E8M0FNU = ("float8_e8m0fnu", 1, "float", 0, -127, 127)  # powers of two alone: no sign and no zero
    F16 = ("float16", 2, "float", 11, -24, 15)
    BF16 = ("bfloat16", 2, "float", 8, -133, 127)
    F32 = ("float32", 4, "float", 24, -149, 127)
    F64 = ("float64", 8, "float", 53, -1074, 1023)
    C32 = ("complex32", 4, "complex", 11, -24, 15)
    C64 = ("complex64", 8, "complex", 24, -149, 127)
    C128 = ("complex128", 16, "complex", 53, -1074, 1023)

    def __init__(self, label: str, itemsize: int, kind: str, mantissa: int, lowest: int, highest: int) -> None:
        self.label = label
        self.itemsize = itemsize
        self.kind = kind
        self.mantissa = mantissa
        self.lowest = lowest
        self.highest = highest

    __hash__ = object.__hash__  # each is there once; Enum's own is slow, and a million specs hold one

    def __str__(self) -> str:
        return self.label

    @property
    def is_float(self) -> bool:
        """Whether values are real floating-point numbers."""
        return self.kind == "float"

    def holds(self, other: DType) -> bool:
        """Return whether every finite value of `other` is exact in this type."""
        if self is other:
            return True
        order = {"bool": 0, "uint": 1, "int": 2, "float": 3, "complex": 4}
        if order[self.kind] < order[other.kind]:
            return False
        return self.mantissa >= other.mantissa and self.lowest <= other.lowest and self.highest >= other.highest

    @classmethod
    def of(cls, label: str) -> DType:
        """Return the type that torch calls `label` (with or without `torch.`).

        Raises:
            KeyError: no such element type.
        """
        return _BY_LABEL[label.removeprefix("torch.")]


_BY_LABEL = {dtype.label: dtype for dtype in DType}
# What safetensors files call them: the enum Dtype in the sources of huggingface/safetensors.
SAFETENSORS = {
    "BOOL": DType.BOOL, "U8": DType.U8, "I8": DType.I8, "U16": DType.U16, "I16": DType.I16, "U32": DType.U32,
    "I32": DType.I32, "U64": DType.U64, "I64": DType.I64, "F8_E4M3": DType.F8_E4M3FN, "F8_E5M2": DType.F8_E5M2,
    "F8_E4M3FNUZ": DType.F8_E4M3FNUZ, "F8_E5M2FNUZ": DType.F8_E5M2FNUZ, "F8_E8M0": DType.F8_E8M0FNU,
    "F16": DType.F16, "BF16": DType.BF16, "F32": DType.F32, "F64": DType.F64, "C64": DType.C64, "C128": DType.C128,
}  # fmt: skip
