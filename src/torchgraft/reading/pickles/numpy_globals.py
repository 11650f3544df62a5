"""What calls of numpy's functions give in pickles: descriptions of arrays, and plain numbers."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from torchgraft.core.dtypes import DType
from torchgraft.reading.pickles.inert import Array, ArrayType, GlobalName, Stub, as_bytes, brief

if TYPE_CHECKING:
    from torchgraft.reading.pickles.machine import Machine

Args = tuple[Any, ...]

_SCALARS = {
    "b1": "?", "i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q", "f2": "e",
    "f4": "f", "f8": "d",
}  # fmt: skip


def array_type(m: Machine, args: Args) -> ArrayType:
    """`numpy.dtype(code, ...)`."""
    code = args[0] if args else None
    if isinstance(code, GlobalName):
        code = code.name
    if not isinstance(code, str):
        raise m.corrupt("a numpy type without its code")
    if code.startswith("O"):
        m.globals.foreign["numpy arrays of objects"] = None
    return ArrayType(code.lstrip("<>=|"), code[0] if code[:1] in "<>" else "<")


def array(m: Machine, args: Args) -> Array:
    """`_reconstruct(...)`: an empty array, which its state fills."""
    del m, args
    return Array()


def array_of_buffer(m: Machine, args: Args) -> Array:
    """`_frombuffer(buffer, dtype, shape, order, axes)`, protocol 5. In the order K, axes are exchanged after all."""
    if len(args) not in (4, 5) or not isinstance(args[1], ArrayType) or not isinstance(args[2], tuple):
        raise m.corrupt("a numpy array without its type and shape")
    order, axes = args[3], args[4] if len(args) == 5 else None
    if order == "K" and isinstance(axes, tuple) and sorted(map(repr, axes)) == sorted(map(repr, range(len(args[2])))):
        return Array(args[2], args[1], data=as_bytes(args[0]), axes=axes)
    if order not in ("C", "F"):
        raise m.corrupt(
            f"a numpy array in the order {brief(order, 20)} {brief(axes, 40)}, expected C, F, or K and its axes"
        )
    return Array(args[2], args[1], order == "F", as_bytes(args[0]))


def of_device(m: Machine, args: Args) -> Any:
    """`_rebuild_device_tensor_from_numpy(array, dtype, device, requires_grad)`: numpy has no bfloat16, and float32 instead."""
    if not args:
        raise m.corrupt("a call without its value")
    if isinstance(args[0], Array) and len(args) > 1 and isinstance(args[1], DType):
        args[0].wanted = args[1]
    return args[0]


def scalar(m: Machine, args: Args) -> Any:
    """`scalar(dtype, bytes)`."""
    if not args or not isinstance(args[0], ArrayType):
        raise m.corrupt("a numpy scalar without its type")
    kind, data = args[0], as_bytes(args[1]) if len(args) > 1 else b""
    code = _SCALARS.get(kind.code)
    if code is None or not isinstance(data, bytes):
        return Stub(GlobalName("numpy", f"scalar {kind.code}"), (data,))
    if len(data) != struct.calcsize(code):
        raise m.corrupt(f"a numpy scalar of {len(data)} bytes, its type {kind.code} has another size")
    return struct.unpack((">" if kind.order == ">" else "<") + code, data)[0]
