"""From descriptions in pickles to tensors that can be read: every number is checked before anything is allocated."""

from __future__ import annotations

from math import prod
from typing import Any, Protocol

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import (
    CorruptCheckpointError,
    LimitExceededError,
    UnsafeCheckpointError,
    UnsupportedCheckpointError,
    printable,
)
from torchgraft.core.specs import c_strides
from torchgraft.reading.pickles.inert import Array, StorageRef, TensorRef, Unreadable, brief
from torchgraft.reading.tensors import (
    MAX_DIMS,
    Bytes,
    MemoryBytes,
    SignFlipped,
    StoredTensor,
    TensorView,
    check_expansion,
)

# What numpy calls element types, without their byte order; the last three are those of ml_dtypes.
NUMPY_DTYPES = {
    "b1": DType.BOOL, "?": DType.BOOL, "i1": DType.I8, "u1": DType.U8, "i2": DType.I16, "u2": DType.U16,
    "i4": DType.I32, "u4": DType.U32, "i8": DType.I64, "u8": DType.U64, "f2": DType.F16, "f4": DType.F32,
    "f8": DType.F64, "c8": DType.C64, "c16": DType.C128, "bfloat16": DType.BF16,
    "float8_e4m3fn": DType.F8_E4M3FN, "float8_e5m2": DType.F8_E5M2,
}  # fmt: skip
# Of so many different geometries it is remembered that they are sound: few repeat in a million tensors.
MAX_KNOWN = 4096


class Storages(Protocol):
    """Finds the bytes of a storage."""

    def find(self, ref: StorageRef) -> Bytes:
        """Return them; raises CheckpointError where they are missing or of another size."""
        ...


class Resolver:
    """Makes tensors out of descriptions. `label` names the file, `big` says that it is big-endian."""

    __slots__ = ("_arrays", "_sound", "big", "label", "storages")

    def __init__(self, label: str, storages: Storages, *, big: bool = False) -> None:
        self.label = label
        self.storages = storages
        self.big = big
        self._arrays: dict[int, tuple[Array, StoredTensor]] = {}
        self._sound: dict[tuple[int, ...], tuple[Any, Any, bool]] = {}

    def tensor(self, ref: TensorView | TensorRef | Unreadable | Array, name: str) -> StoredTensor:
        """Return the tensor called `name`, the same one for the same description."""
        if isinstance(ref, TensorView):
            return ref
        if isinstance(ref, TensorRef):
            if ref.tensor is None:
                view = self._view(ref, name)
                ref.tensor = self._flipped(view, ref, name) if ref.conj or ref.neg else view
                ref.storage = None  # a million of them count, and nothing asks again
            made: StoredTensor = ref.tensor
            return made
        if isinstance(ref, Array):
            if id(ref) not in self._arrays:
                self._arrays[id(ref)] = ref, array_view(self.label, name, ref)
            return self._arrays[id(ref)][1]
        if ref.view is not None:
            self._geometry(ref.view, name)
        raise UnsupportedCheckpointError(f"{self.label}: tensor {printable(name)} is {ref.why}")

    def _flipped(self, view: TensorView, ref: TensorRef, name: str) -> StoredTensor:
        if view.dtype.kind not in ("float", "complex"):
            raise _bad(self.label, name, f"of {view.dtype} is marked as conjugated or negated")
        return SignFlipped(view, conj=ref.conj, neg=ref.neg) if view.dtype.kind == "complex" or ref.neg else view

    def _view(self, ref: TensorRef, name: str) -> TensorView:
        storage = ref.storage
        contiguous = self._geometry(ref, name)
        if storage.kind.dtype is None:
            raise UnsupportedCheckpointError(
                f"{self.label}: tensor {printable(name)} is quantised, which is not read; save dequantize() of it"
            )
        dtype = ref.dtype or storage.kind.dtype
        strides = None if contiguous else ref.stride
        swap = unit_of(dtype) if self.big else 0
        return TensorView(self.storages.find(storage), dtype, ref.shape, ref.offset * dtype.itemsize, strides, swap)

    def _geometry(self, ref: TensorRef, name: str) -> bool:
        """Return whether the view lies in C order, after checking that it lies in its storage at all."""
        storage, shape, stride = ref.storage, ref.shape, ref.stride
        if not isinstance(storage, StorageRef):
            raise _bad(self.label, name, "has no storage")
        size = ref.dtype.itemsize if ref.dtype is not None else storage.kind.itemsize
        if not type(shape) is type(stride) is tuple or type(ref.offset) is not int:
            return check_geometry(self.label, name, ref, storage.nbytes, size)
        facts = (id(shape), id(stride), ref.offset, storage.nbytes, size)
        known = self._sound.get(facts)
        if known is None:
            known = shape, stride, check_geometry(self.label, name, ref, storage.nbytes, size)
            if len(self._sound) < MAX_KNOWN:
                self._sound[facts] = known  # the tuples are kept, so that no other one gets their ids
        return known[2]


def check_geometry(label: str, name: str, ref: TensorRef, stored: int, itemsize: int) -> bool:
    """Return whether the view `ref` lies in C order in its storage of `stored` bytes."""
    ref.shape, ref.stride = (tuple(n) if type(n) is list else n for n in (ref.shape, ref.stride))
    shape, stride, offset = ref.shape, ref.stride, ref.offset
    if type(shape) is not tuple or type(stride) is not tuple or len(shape) != len(stride):
        raise _unfit(label, name, ref, "two tuples of the same length")
    if type(offset) is not int or offset < 0:
        raise _bad(label, name, f"has the offset {brief(offset, 30)}, expected a whole number from 0 on")
    _check_dims(label, name, shape)
    numel, last, c_order = 1, 0, True
    for n, s in zip(shape[::-1], stride[::-1], strict=True):
        if type(n) is not int or type(s) is not int or n < 0 or s < 0:
            raise _unfit(label, name, ref, "whole numbers from 0 on")
        if n != 1 and s != numel:
            c_order = False
        numel *= n
        last += (n - 1) * s
    end = (offset + last + 1) * itemsize if numel else 0
    if numel * itemsize >= 1 << 63:
        raise _bad(label, name, f"has shape {brief(shape)}: {numel} elements, more than any tensor can have")
    if end > stored:
        needs = f"offset {offset} need {end} bytes, its storage has {stored}"
        raise _bad(label, name, f"is out of bounds: shape {brief(shape)}, stride {brief(stride)} and {needs}")
    if not c_order and numel:
        check_expansion(label, printable(name), numel * itemsize, stored)
    return c_order or not numel


def _unfit(label: str, name: str, ref: TensorRef, expected: str) -> CorruptCheckpointError:
    return _bad(label, name, f"has shape {brief(ref.shape)} and stride {brief(ref.stride)}: expected {expected}")


def _check_dims(label: str, name: str, shape: tuple[Any, ...]) -> None:
    if len(shape) > MAX_DIMS:
        raise LimitExceededError(
            f"{label}: tensor {printable(name)} has {len(shape)} dimensions, the limit is {MAX_DIMS}"
        )


def array_view(label: str, name: str, array: Array) -> TensorView:
    """Return a numpy array that stood in a pickle as a tensor."""
    code = array.type.code if array.type is not None else ""
    dtype = NUMPY_DTYPES.get(code)
    if code.startswith("O") or array.values:
        raise UnsafeCheckpointError(
            f"{label}: array {printable(name)} holds Python objects, not numbers (object dtype)"
        )
    if dtype is None:
        raise UnsupportedCheckpointError(f"{label}: array {printable(name)} has dtype {code!r}, which is no tensor's")
    big = array.type is not None and array.type.order == ">"
    view = strided_array(label, name, MemoryBytes(array.data), dtype, array.shape, fortran=array.fortran, big=big)
    if array.axes is not None:
        steps = c_strides(view.shape)
        view.shape, view.strides = (tuple(facts[n] for n in array.axes) for facts in (view.shape, steps))
    return view if array.wanted in (None, dtype) else _upper_half(label, name, view, array.wanted)


def _upper_half(label: str, name: str, view: TensorView, wanted: DType) -> TensorView:
    """Return an array of float32 as the bfloat16 that it was made of, each of which is the upper half of one."""
    data = view.source.data if isinstance(view.source, MemoryBytes) else b""
    low, high = (2, 0) if view.swap else (0, 2)
    if (view.dtype, wanted) != (DType.F32, DType.BF16) or any(data[low::4]) or any(data[low + 1 :: 4]):
        raise _bad(label, name, f"of {wanted} is kept as an array of {view.dtype}, whose values it can't have")
    strides = view.strides if view.strides is not None else c_strides(view.shape)
    return TensorView(view.source, wanted, view.shape, high, tuple(2 * n for n in strides), view.swap and 2)


def strided_array(  # noqa: PLR0913  # one per fact of the geometry
    label: str, name: str, source: Bytes, dtype: DType, shape: Any, *, fortran: bool, big: bool
) -> TensorView:
    """Return a numpy array as a view: its whole memory, in C or Fortran order, of either byte order."""
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise _bad(label, name, f"has the shape {brief(shape)}: expected whole numbers from 0 on")
    _check_dims(label, name, shape)
    need = prod(shape) * dtype.itemsize
    if need != source.nbytes:
        raise _bad(label, name, f"has size {source.nbytes} bytes, its shape {brief(shape)} needs {need}")
    strides = c_strides(shape[::-1])[::-1] if fortran and len(shape) > 1 else None
    return TensorView(source, dtype, shape, 0, strides, unit_of(dtype) if big else 0)


def unit_of(dtype: DType) -> int:
    """Return the size in bytes of the numbers that a byte order applies to; 0 where it applies to none."""
    unit = dtype.itemsize // 2 if dtype.kind == "complex" else dtype.itemsize
    return unit if unit > 1 else 0


def _bad(label: str, name: str, text: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(f"{label}: tensor {printable(name)} {text}")
