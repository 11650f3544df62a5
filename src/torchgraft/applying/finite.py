"""Whether values are finite, told from their bit patterns at the speed of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from torchgraft.core.dtypes import DType

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 1 << 20  # elements
_ROW = 4096  # elements: a sum that is too short for BLAS to share it out among threads of its own
_WORTH = 512 << 10  # bytes
_FLOATS = {32: np.float32, 64: np.float64}


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Bit patterns of one element type: `infinite` is that of +inf (patterns above it are NaN), without the sign."""

    bits: int
    infinite: int
    has_infinity: bool = True

    @property
    def signed(self) -> np.dtype[np.signedinteger[np.typing.NBitBase]]:
        return np.dtype(f"i{self.bits // 8}")

    @property
    def unsigned(self) -> np.dtype[np.unsignedinteger[np.typing.NBitBase]]:
        return np.dtype(f"u{self.bits // 8}")


# IEEE 754 binary16/32/64; bfloat16; float8 of Micikevicius et al. 2022 (E4M3FN has no infinity, its NaN is S.1111.111).
_PATTERNS = {
    DType.F16: _Pattern(16, 0x7C00),
    DType.BF16: _Pattern(16, 0x7F80),
    DType.F32: _Pattern(32, 0x7F80_0000),
    DType.F64: _Pattern(64, 0x7FF0_0000_0000_0000),
    DType.C32: _Pattern(16, 0x7C00),
    DType.C64: _Pattern(32, 0x7F80_0000),
    DType.C128: _Pattern(64, 0x7FF0_0000_0000_0000),
    DType.F8_E5M2: _Pattern(8, 0x7C),
    DType.F8_E4M3FN: _Pattern(8, 0x7F, has_infinity=False),
}
# Types of one NaN, in whose place others have a number, and of no infinity.
_ONLY_NAN = {DType.F8_E4M3FNUZ: 0x80, DType.F8_E5M2FNUZ: 0x80, DType.F8_E8M0FNU: 0xFF}
# Types whose greater patterns are greater numbers: how numpy has them, and how many of its last bits they lack.
COMPARABLE = {
    DType.F8_E5M2: (np.float16, 8),
    DType.F16: (np.float16, 0),
    DType.BF16: (np.float32, 16),
    DType.F32: (np.float32, 0),
    DType.F64: (np.float64, 0),
}


@dataclass(frozen=True, slots=True)
class Nonfinite:
    """How many elements are NaN and how many infinite."""

    nan: int = 0
    inf: int = 0

    def __add__(self, other: Nonfinite) -> Nonfinite:
        return Nonfinite(self.nan + other.nan, self.inf + other.inf)

    def __bool__(self) -> bool:
        return bool(self.nan or self.inf)


NONE = Nonfinite()


def may_be_nonfinite(dtype: DType) -> bool:
    """Return whether values of this type can be NaN or infinite."""
    return dtype in _PATTERNS or dtype in _ONLY_NAN


def count_nonfinite(data: NDArray[np.uint8], dtype: DType) -> Nonfinite:
    """Return how many NaN and infinite elements the bytes hold; none for types that have neither.

    Sums of squares are finite only where all values are, and cost one pass where numpy has the type. Else two passes for
    the greatest pattern, signed and unsigned, tell whether there are any: with the sign bit clear the greatest signed
    pattern, with it set the greatest unsigned one is that of an infinity or a NaN.
    """
    pattern = _PATTERNS.get(dtype)
    if pattern is None or not data.size:
        return Nonfinite(int((data == _ONLY_NAN[dtype]).sum())) if dtype in _ONLY_NAN else NONE
    if pattern.bits in _FLOATS and data.size >= _WORTH:
        values = data.view(_FLOATS[pattern.bits])
        left = values.size % _ROW
        if _squares_are_finite(values[: values.size - left]):
            data = data[data.size - left * values.itemsize :]
    step = _CHUNK * pattern.bits // 8
    total = NONE
    for start in range(0, data.size, step):
        if _exceeds(data[start : start + step], pattern, pattern.infinite):
            total += _count(data[start : start + step].view(pattern.unsigned), pattern)
    return total


def any_at_least(data: NDArray[np.uint8], dtype: DType, size: float) -> bool:
    """Return whether one of the values is as great as `size`, with any sign, or greater, infinite or NaN.

    `dtype` is one of COMPARABLE. Where it has no such number as `size`, the next smaller one counts.
    """
    kind, dropped = COMPARABLE[dtype]
    with np.errstate(over="ignore"):
        number = np.array(size, kind)
    least = int(number.view(f"u{number.itemsize}")) >> dropped
    return bool(data.size) and _exceeds(data, _PATTERNS[dtype], least)


def _exceeds(data: NDArray[np.uint8], pattern: _Pattern, least: int) -> bool:
    """Return whether a pattern, without its sign, is `least` or greater."""
    negative = least | (1 << (pattern.bits - 1))
    return bool(data.view(pattern.signed).max() >= least or data.view(pattern.unsigned).max() >= negative)


def _squares_are_finite(values: NDArray[np.floating]) -> bool:
    """Return whether the sum of squares of each row of _ROW values is finite: no value of it can be NaN or infinite then."""
    rows = values.reshape(-1, 1, _ROW)
    with np.errstate(all="ignore"):  # great values have no finite square: then patterns tell
        return bool(np.isfinite(rows @ rows.transpose(0, 2, 1)).all())


def _count(values: NDArray[np.unsignedinteger[np.typing.NBitBase]], pattern: _Pattern) -> Nonfinite:
    """Return the exact counts."""
    size = values & values.dtype.type((1 << (pattern.bits - 1)) - 1)
    infinite = int((size == pattern.infinite).sum())
    if not pattern.has_infinity:
        return Nonfinite(infinite, 0)
    return Nonfinite(int((size > pattern.infinite).sum()), infinite)
