"""What numpy's names in pickles stand for: arrays as bytes with a shape and a type, scalars as plain numbers."""

from __future__ import annotations

import struct
from typing import Any

from torchgraft.reading.pickles.globals import Builder
from torchgraft.reading.pickles.inert import Array, ArrayType, GlobalName, Stub
from torchgraft.reading.pickles.machine import Machine

_SCALARS = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f2": "e",
    "f4": "f", "f8": "d",
}  # fmt: skip


def _dtype(m: Machine, args: tuple[Any, ...]) -> ArrayType:
    code = args[0] if args else None
    if isinstance(code, GlobalName):
        code = code.name
    if not isinstance(code, str):
        raise m.corrupt("a numpy type without its code")
    if code.startswith("O"):
        m.table.met["numpy arrays of objects"] = None
    return ArrayType(code.lstrip("<>=|"), code[0] if code[:1] in "<>" else "<")


def _reconstruct(m: Machine, args: tuple[Any, ...]) -> Array:
    del m, args
    return Array()


def _scalar(m: Machine, args: tuple[Any, ...]) -> Any:
    if not args or not isinstance(args[0], ArrayType):
        raise m.corrupt("a numpy scalar without its type")
    kind, data = args[0], _raw(args[1]) if len(args) > 1 else b""
    code = _SCALARS.get(kind.code)
    if code is None or not isinstance(data, bytes):
        return Stub(GlobalName("numpy", f"scalar {kind.code}"), (data,))
    if len(data) != struct.calcsize(code):
        raise m.corrupt(f"a numpy scalar of {len(data)} bytes, its type {kind.code} has another size")
    return struct.unpack((">" if kind.order == ">" else "<") + code, data)[0]


def _frombuffer(m: Machine, args: tuple[Any, ...]) -> Array:
    """`_frombuffer(buffer, dtype, shape, order)`, protocol 5."""
    if len(args) != 4 or not isinstance(args[1], ArrayType) or not isinstance(args[2], tuple):
        raise m.corrupt("a numpy array without its type and shape")
    return Array(args[2], args[1], args[3] == "F", _raw(args[0]))


def build(m: Machine, target: Array | ArrayType, state: Any) -> None:
    """Give an array (version, shape, type, order, bytes) or a type (version, order, ...) its state."""
    if not isinstance(state, tuple) or len(state) < 5:
        raise m.corrupt("a numpy state that is no tuple of five or more")
    if isinstance(target, ArrayType):
        target.order = state[1] if state[1] in (">", "<") else "<"
        if state[3] is not None or state[2] is not None:
            target.code = "V" + target.code
        return
    _, target.shape, kind, fortran, data = state[-5:]
    if not isinstance(kind, ArrayType) or not isinstance(target.shape, tuple):
        raise m.corrupt("a numpy array without its type and shape")
    target.type, target.fortran = kind, bool(fortran)
    if isinstance(data, list):
        target.values = data
    else:
        target.data = _raw(data)


def _raw(data: Any) -> Any:
    """Return the bytes that Python 2 pickled as text, others as they are."""
    return data.encode("latin-1") if isinstance(data, str) else data


NUMPY_GLOBALS: dict[tuple[str, str], Any] = {
    ("numpy", "dtype"): Builder("numpy.dtype", _dtype),
    ("numpy", "ndarray"): Builder("numpy.ndarray", _reconstruct),
}
for _core in ("numpy.core", "numpy._core"):
    NUMPY_GLOBALS[f"{_core}.multiarray", "_reconstruct"] = Builder(f"{_core}.multiarray._reconstruct", _reconstruct)
    NUMPY_GLOBALS[f"{_core}.multiarray", "scalar"] = Builder(f"{_core}.multiarray.scalar", _scalar)
    NUMPY_GLOBALS[f"{_core}.numeric", "_frombuffer"] = Builder(f"{_core}.numeric._frombuffer", _frombuffer)
