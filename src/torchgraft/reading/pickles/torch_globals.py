"""What the names in PyTorch's pickles stand for: descriptions of tensors and storages, and plain containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import LimitExceededError, UnsupportedCheckpointError
from torchgraft.reading.pickles.globals import Builder
from torchgraft.reading.pickles.inert import PickledDict, StorageType, Stub, TensorRef, Unreadable, brief
from torchgraft.reading.pickles.machine import Machine
from torchgraft.reading.pickles.numpy_globals import NUMPY_GLOBALS

_MAX_MADE = 16 << 20


def _no_hooks(m: Machine, hooks: Any) -> None:
    if hooks:
        raise m.unsafe("a tensor carries backward hooks, which are code")


def _tensor(m: Machine, args: tuple[Any, ...]) -> TensorRef:
    del m
    storage, offset, shape, stride = args
    return TensorRef(storage, offset, shape, stride)


def _tensor_v2(m: Machine, args: tuple[Any, ...]) -> TensorRef:
    if len(args) not in (6, 7):
        raise m.corrupt(f"a tensor of {len(args)} facts, expected 6 or 7")
    if args[5]:
        _no_hooks(m, args[5])
    ref = TensorRef(args[0], args[1], m.once(args[2]), m.once(args[3]))
    return _flagged(ref, args[6]) if len(args) == 7 else ref


def _flagged(ref: TensorRef, flags: Any) -> TensorRef:
    if isinstance(flags, dict):
        ref.conj, ref.neg = bool(flags.get("conj")), bool(flags.get("neg"))
    return ref


def _tensor_v3(m: Machine, args: tuple[Any, ...]) -> TensorRef | Unreadable:
    if len(args) not in (7, 8):
        raise m.corrupt(f"a tensor of {len(args)} facts, expected 7 or 8")
    _no_hooks(m, args[5])
    if not isinstance(args[6], DType):
        return Unreadable(f"of an element type that is not read ({brief(args[6], 60)})")
    ref = TensorRef(args[0], args[1], args[2], args[3], args[6])
    return _flagged(ref, args[7]) if len(args) == 8 else ref


def _parameter(m: Machine, args: tuple[Any, ...]) -> Any:
    if len(args) not in (3, 4) or not isinstance(args[0], (TensorRef, Unreadable)):
        raise m.corrupt("a parameter that is no tensor")
    _no_hooks(m, args[2])
    if len(args) == 4:
        m.table.check_state(m, args[0], args[3])
    return args[0]


def _from_type(m: Machine, args: tuple[Any, ...]) -> Any:
    """`_rebuild_from_type_v2(function, type, args, state)`: a tensor of a subclass; the subclass is dropped."""
    if len(args) < 3 or not isinstance(args[2], tuple):
        raise m.corrupt("a tensor of a subclass without its arguments")
    if len(args) > 3:
        m.table.check_state(m, args[1], args[3])
    return m.table.call(m, args[0], args[2])


def _from_numpy(m: Machine, args: tuple[Any, ...]) -> Any:
    del m
    return args[0]


def _unreadable(why: str) -> Callable[[Machine, tuple[Any, ...]], Unreadable]:
    def run(m: Machine, args: tuple[Any, ...]) -> Unreadable:
        del m, args
        return Unreadable(why)

    return run


def _quantised(m: Machine, args: tuple[Any, ...]) -> Unreadable:
    if len(args) < 4:
        raise m.corrupt("a quantised tensor without its shape")
    return Unreadable("a quantised tensor, which is not read; save dequantize() of it", TensorRef(*args[:4]))


def _first(m: Machine, args: tuple[Any, ...]) -> Any:
    if not args:
        raise m.corrupt("a call without its value")
    return args[0]


def _made_of_numbers(name: str) -> Callable[[Machine, tuple[Any, ...]], Any]:
    def run(m: Machine, args: tuple[Any, ...]) -> Any:
        size = 1
        for arg in args:
            size *= arg if isinstance(arg, int) else 1
        if size > _MAX_MADE:
            raise LimitExceededError(f"{m.where}: asks for {name} of {size} elements without giving their values")
        if args:
            raise UnsupportedCheckpointError(f"{m.where}: makes {name} out of {brief(args)}; it has no stored values")
        return Unreadable(f"{name} without values")

    return run


def _dict(m: Machine, args: tuple[Any, ...]) -> PickledDict:
    out = PickledDict()
    if args and isinstance(args[-1], (dict, list, tuple)):
        pairs = args[-1].items() if isinstance(args[-1], dict) else args[-1]
        m.set_items(out, [part for pair in pairs for part in pair])
    return out


def _list(m: Machine, args: tuple[Any, ...]) -> list[Any]:
    return list(_values(m, args))


def _set(m: Machine, args: tuple[Any, ...]) -> frozenset[Any]:
    return frozenset(m.checked_key(v) for v in _values(m, args))


def _tuple(m: Machine, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_values(m, args))


def _values(m: Machine, args: tuple[Any, ...]) -> Any:
    value = args[0] if args else ()
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        raise m.corrupt(f"a container made of a {type(value).__name__}")
    return value


def _bytes(name: str) -> Callable[[Machine, tuple[Any, ...]], bytes]:
    def run(m: Machine, args: tuple[Any, ...]) -> bytes:
        value = args[0] if args else b""
        if isinstance(value, bytes):
            return value
        if isinstance(value, int) and (value < 0 or value > _MAX_MADE):
            raise LimitExceededError(f"{m.where}: asks for {name}({value}), memory without content")
        if isinstance(value, int):
            return bytes(value)
        if isinstance(value, str):
            return _encode(m, (value, *args[1:]))
        return bytes(_values(m, args))

    return run


def _encode(m: Machine, args: tuple[Any, ...]) -> bytes:
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise m.unsafe("asks to call _codecs.encode with other arguments than bytes need")
    return args[0].encode(args[1])


def _number(kind: type[int | float | complex | bool]) -> Callable[[Machine, tuple[Any, ...]], Any]:
    def run(m: Machine, args: tuple[Any, ...]) -> Any:
        if not all(isinstance(a, (int, float)) for a in args):
            raise m.corrupt(f"a {kind.__name__} made of something else than numbers")
        return kind(*args)

    return run


def _reconstructor(m: Machine, args: tuple[Any, ...]) -> Any:
    """`copyreg._reconstructor(class, base, state)`, protocol 0 and 1."""
    made = m.table.new(m, args[0], ())
    if isinstance(made, Stub) and len(args) > 2 and isinstance(args[2], dict):
        made.items.update(args[2])
    elif isinstance(made, Stub) and len(args) > 2 and isinstance(args[2], (list, tuple)):
        made.values.extend(args[2])
    return made


def _newobj(m: Machine, args: tuple[Any, ...]) -> Any:
    return m.table.new(m, args[0], args[1:])


def _text(m: Machine, args: tuple[Any, ...]) -> str:
    if len(args) > 2 or not all(isinstance(a, (str, int)) for a in args):
        raise m.corrupt("a device or layout that is no text")
    return ":".join(a if isinstance(a, str) else brief(a) for a in args[:4])


_DTYPE_ALIASES = {
    "float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32", "short": "int16",
    "cfloat": "complex64", "cdouble": "complex128", "chalf": "complex32",
}  # fmt: skip

_STORAGES = {
    "Float": DType.F32, "Double": DType.F64, "Half": DType.F16, "BFloat16": DType.BF16, "Long": DType.I64,
    "Int": DType.I32, "Short": DType.I16, "Char": DType.I8, "Byte": DType.U8, "Bool": DType.BOOL,
    "ComplexFloat": DType.C64, "ComplexDouble": DType.C128,
}  # fmt: skip
_QUANTISED = {"QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1}


def _storage_names() -> dict[tuple[str, str], StorageType]:
    out: dict[tuple[str, str], StorageType] = {}
    for module in ("torch", "torch.cuda", "torch.storage", "torch.xpu"):
        for name, dtype in _STORAGES.items():
            out[module, name + "Storage"] = StorageType(name + "Storage", dtype.itemsize, dtype)
        for name, size in _QUANTISED.items():
            out[module, name + "Storage"] = StorageType(name + "Storage", size, None)
        for name in ("UntypedStorage", "_UntypedStorage"):
            out[module, name] = StorageType("UntypedStorage", 1, DType.U8)
    return out


_FUNCTIONS: dict[str, Callable[[Machine, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _dict, "collections.defaultdict": _dict, "collections.Counter": _dict,
    "builtins.dict": _dict, "builtins.list": _list, "builtins.set": _set, "builtins.frozenset": _set,
    "builtins.tuple": _tuple, "builtins.bytearray": _bytes("bytearray"), "builtins.bytes": _bytes("bytes"),
    "builtins.int": _number(int), "builtins.float": _number(float), "builtins.complex": _number(complex),
    "builtins.bool": _number(bool), "_codecs.encode": _encode, "collections.deque": _list,
    "copyreg._reconstructor": _reconstructor, "copyreg.__newobj__": _newobj, "copyreg.__newobj_ex__": _newobj,
    "torch._utils._rebuild_tensor": _tensor, "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3, "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter, "torch._utils._rebuild_qtensor": _quantised,
    "torch._tensor._rebuild_from_type_v2": _from_type, "torch._tensor._rebuild_from_type": _from_type,
    "torch.tensor._rebuild_from_type": _from_type,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy, "torch._utils._rebuild_xla_tensor": _from_numpy,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _from_numpy,
    "torch._utils._rebuild_sparse_tensor": _unreadable("a sparse tensor (indices and values), which is not read"),
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable("a sparse tensor (indices, values), which is not read"),
    "torch._utils._rebuild_nested_tensor": _unreadable("a nested tensor, which is not read"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("a meta tensor: the file holds no values for it"),
    "torch._utils._rebuild_wrapper_subclass": _unreadable("a wrapper subclass: the file holds no values for it"),
    "torch.nn.parameter.UninitializedParameter": _unreadable("an uninitialised parameter: it never had values"),
    "torch.nn.parameter.UninitializedBuffer": _unreadable("an uninitialised buffer: it never had values"),
    "torch.Size": _tuple, "torch.device": _text, "torch.serialization._get_layout": _text,
    "torch.jit._pickle.build_intlist": _first, "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first, "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.build_tensor_from_id": _first, "torch.jit._pickle.restore_type_tag": _first,
}  # fmt: skip


def _torch_names() -> dict[tuple[str, str], Any]:
    out: dict[tuple[str, str], Any] = {**NUMPY_GLOBALS, **_storage_names()}
    for full, run in _FUNCTIONS.items():
        module, _, name = full.rpartition(".")
        out[module, name] = Builder(full, run)
    for dtype in DType:
        out["torch", dtype.label] = dtype
    out |= {("torch", alias): DType.of(label) for alias, label in _DTYPE_ALIASES.items()}
    for module in ("torch", "torch.cuda"):
        for kind in (*_STORAGES, ""):
            full = f"{module}.{kind}Tensor"
            out[module, f"{kind}Tensor"] = Builder(full, _made_of_numbers(full))
    return out


TORCH_GLOBALS: Mapping[tuple[str, str], Any] = _torch_names()
