"""The classes and functions that pickles of checkpoints name, and what a call of each gives here.

Python's containers and numbers give plain ones, torch's and numpy's functions give descriptions of tensors and arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import LimitExceededError, UnsupportedCheckpointError
from torchgraft.reading.pickles.inert import (
    Builder,
    GlobalName,
    PickledDict,
    StorageType,
    Stub,
    TensorRef,
    Unreadable,
    brief,
)
from torchgraft.reading.pickles.numpy_globals import array, array_of_buffer, array_type, of_device, scalar

if TYPE_CHECKING:
    from torchgraft.reading.pickles.machine import Machine

Args = tuple[Any, ...]
Call = Callable[["Machine", Args], Any]

_WHOLE_OR_CUT = {
    GlobalName(f"torch.distributed.{tensor}.placement_types", kind)
    for tensor in ("tensor", "_tensor")
    for kind in ("Replicate", "Shard", "_StridedShard")
}
MAX_MADE = 16 << 20  # bytes or elements that a call may ask for without giving their content


# -- torch: tensors and their parts


def _tensor(m: Machine, args: Args) -> TensorRef:
    del m
    storage, offset, shape, stride = args
    return TensorRef(storage, offset, shape, stride)


def _tensor_v2(m: Machine, args: Args) -> TensorRef:
    """`_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks, flags)`."""
    if len(args) not in (6, 7):
        raise m.corrupt(f"a tensor of {len(args)} facts, expected 6 or 7")
    if args[5]:
        _no_hooks(m, args[5])
    ref = TensorRef(args[0], args[1], m.once(args[2]), m.once(args[3]))
    return _flagged(m, ref, args[6]) if len(args) == 7 else ref


def _tensor_v3(m: Machine, args: Args) -> TensorRef | Unreadable:
    """`_rebuild_tensor_v3(storage, offset, shape, stride, requires_grad, hooks, dtype, flags)`: the storage is untyped."""
    if len(args) not in (7, 8):
        raise m.corrupt(f"a tensor of {len(args)} facts, expected 7 or 8")
    _no_hooks(m, args[5])
    if not isinstance(args[6], DType):
        said = str(args[6]) if isinstance(args[6], GlobalName) else brief(args[6], 60)
        return Unreadable(f"of an element type that is not read ({said})")
    ref = TensorRef(args[0], args[1], args[2], args[3], args[6])
    return _flagged(m, ref, args[7]) if len(args) == 8 else ref


def _no_hooks(m: Machine, hooks: Any) -> None:
    if hooks:
        raise m.unsafe("a tensor carries backward hooks, which are code")


def _flagged(m: Machine, ref: TensorRef, flags: Any) -> TensorRef:
    if flags is not None:
        if not isinstance(flags, dict):
            raise m.corrupt(f"a tensor with {brief(flags, 40)} as its flags, expected a dictionary")
        ref.conj, ref.neg = bool(flags.get("conj")), bool(flags.get("neg"))
    return ref


def _parameter(m: Machine, args: Args) -> Any:
    """`_rebuild_parameter(tensor, requires_grad, hooks, state)`."""
    if len(args) not in (3, 4) or not isinstance(args[0], (TensorRef, Unreadable)):
        raise m.corrupt("a parameter that is no tensor")
    _no_hooks(m, args[2])
    if len(args) == 4:
        m.globals.check_state(m, args[0], args[3])
    return args[0]


def _variable(m: Machine, args: Args) -> Any:
    """`Variable(tensor, ...)` and `Parameter(tensor, requires_grad)`, as torch before 0.4 pickled them.

    The oldest are made without anything, and get their tensor as a part of their state (`Globals.set_variable`).
    """
    if not args:
        return TensorRef(None, 0, (), ())
    if not isinstance(args[0], (TensorRef, Unreadable)):
        raise m.corrupt("a parameter that is no tensor")
    return args[0]


def _from_type(m: Machine, args: Args) -> Any:
    """`_rebuild_from_type_v2(function, type, args, state)`: a tensor of a subclass; the subclass is dropped."""
    if len(args) < 3 or not isinstance(args[2], tuple):
        raise m.corrupt("a tensor of a subclass without its arguments")
    if len(args) > 3:
        m.globals.check_state(m, args[1], args[3])
    made = m.globals.call(m, args[0], args[2])
    if isinstance(made, Unreadable) and len(args) > 3 and args[2][2:]:
        return _local_part(args[2][2], args[3]) or made
    return made


def _local_part(size: Any, state: Any) -> TensorRef | Unreadable | None:
    """Return what a process holds of a `DTensor` of `size`, which is spread over several; None for tensors of other classes.

    A part as large as the whole is the whole, unless it is to be added to those of others.
    """
    inner: dict[Any, Any] = {}
    for part in state if isinstance(state, tuple) else (state,):
        inner |= part if isinstance(part, dict) else {}
    local, spec = inner.get("_local_tensor"), inner.get("_spec")
    if not isinstance(local, TensorRef) or not isinstance(spec, Stub) or not isinstance(spec.state, dict):
        return None
    dealt = spec.state.get("placements")
    sized = isinstance(size, tuple) and all(isinstance(n, int) for n in size) and local.shape == size
    if sized and isinstance(dealt, tuple) and all(isinstance(d, Stub) and d.kind in _WHOLE_OR_CUT for d in dealt):
        return local
    return Unreadable(
        f"one process's part {brief(local.shape, 40)} of {brief(size, 40)}, spread over several; save it gathered "
        "(get_model_state_dict with full_state_dict=True), or with torch.distributed.checkpoint"
    )


def _quantised(m: Machine, args: Args) -> Unreadable:
    if len(args) < 4:
        raise m.corrupt("a quantised tensor without its shape")
    return Unreadable("a quantised tensor, which is not read; save dequantize() of it", TensorRef(*args[:4]))


def _unreadable(why: str) -> Call:
    return lambda m, args: Unreadable(why)  # noqa: ARG005  # whatever it is made of


def _wrapped(m: Machine, args: Args) -> Unreadable:
    """`_rebuild_wrapper_subclass(class, dtype, size, ...)`: a tensor without memory of its own; its class knows its parts."""
    del m
    kind = str(args[0]) if args and isinstance(args[0], GlobalName) else "its own"
    return Unreadable(f"of the class {kind}, whose parts are not read; save it as an ordinary tensor")


def _without_values(name: str) -> Call:
    """Return what becomes of `torch.Tensor(2, 3)`: a tensor of a size, whose values nothing states."""

    def call(m: Machine, args: Args) -> Unreadable:
        size = 1
        for arg in args:
            size *= arg if isinstance(arg, int) else 1
        if size > MAX_MADE:
            raise LimitExceededError(f"{m.where}: asks for {name} of {size} elements without giving their values")
        if args:
            raise UnsupportedCheckpointError(f"{m.where}: makes {name} out of {brief(args)}; it has no stored values")
        return Unreadable(f"{name} without values")

    return call


def _text(m: Machine, args: Args) -> str:
    if len(args) > 2 or not all(isinstance(a, (str, int)) for a in args):
        raise m.corrupt("a device or layout that is no text")
    return ":".join(a if isinstance(a, str) else brief(a) for a in args)


# -- Python: containers, numbers and bytes


def _first(m: Machine, args: Args) -> Any:
    if not args:
        raise m.corrupt("a call without its value")
    return args[0]


def _dict(m: Machine, args: Args) -> PickledDict:
    out = PickledDict()
    if args and isinstance(args[-1], (dict, list, tuple)):
        m.spend(128 * len(args[-1]))
        pairs = args[-1].items() if isinstance(args[-1], dict) else args[-1]
        m.set_items(out, [part for pair in pairs for part in pair])
    elif args and isinstance(args[-1], (str, bytes, int, float)):
        raise m.corrupt(f"a dictionary made of {brief(args[-1], 40)}")
    return out


def _values(m: Machine, args: Args) -> Any:
    value = args[0] if args else ()
    if not isinstance(value, (list, tuple, set, frozenset, dict)):
        raise m.corrupt(f"a container made of a {type(value).__name__}")
    m.spend(32 * len(value))
    return value


def _made(kind: type[list[Any] | Args]) -> Call:
    return lambda m, args: kind(_values(m, args))


def _frozenset(m: Machine, args: Args) -> frozenset[Any]:
    return frozenset(m.checked_key(v) for v in _values(m, args))


def _bytes(name: str) -> Call:
    def call(m: Machine, args: Args) -> bytes:
        value = args[0] if args else b""
        if isinstance(value, bytes):
            return value
        if isinstance(value, int):
            if not 0 <= value <= MAX_MADE:
                raise LimitExceededError(f"{m.where}: asks for {name}({value}), memory without content")
            m.spend(value)
            return bytes(value)
        if isinstance(value, str):
            return _encode(m, (value, *args[1:]))
        return bytes(_values(m, args))

    return call


def _encode(m: Machine, args: Args) -> bytes:
    if len(args) != 2 or not isinstance(args[0], str) or args[1] not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise m.unsafe("asks to call _codecs.encode with other arguments than bytes need")
    m.spend(len(args[0]))
    return args[0].encode(args[1])


def _number(kind: type[int | float | complex | bool]) -> Call:
    def call(m: Machine, args: Args) -> Any:
        if not all(isinstance(a, (int, float)) for a in args):
            raise m.corrupt(f"a {kind.__name__} made of something else than numbers")
        return kind(*args)

    return call


def _reconstructor(m: Machine, args: Args) -> Any:
    """`copyreg._reconstructor(class, base, state)`, protocol 0 and 1."""
    made = m.globals.new(m, args[0], ())
    if isinstance(made, Stub) and len(args) > 2 and isinstance(args[2], dict):
        made.items.update(args[2])
    elif isinstance(made, Stub) and len(args) > 2 and isinstance(args[2], (list, tuple)):
        made.values.extend(args[2])
    return made


def _newobj(m: Machine, args: Args) -> Any:
    return m.globals.new(m, args[0], args[1:])


def _type_of(m: Machine, args: Args) -> Stub:
    """`type(value)`: so the type of None is pickled."""
    if len(args) != 1:
        raise m.unsafe("asks to make a class")
    return Stub(GlobalName("builtins", "type"), args)


def _alias(m: Machine, args: Args) -> Stub:
    """`list[int]`, `typing.Optional[int]` and `int | None`, which are made of types alone."""
    if len(args) != 2 or not isinstance(args[0], (GlobalName, Builder, Stub)):
        raise m.unsafe("asks to call a function of the module operator")
    return Stub(GlobalName("typing", "Alias"), args)


def _union(m: Machine, args: Args) -> Stub:
    """`functools.reduce(operator.or_, types)`: so `int | None` is pickled."""
    if (
        len(args) != 2
        or not isinstance(args[0], Builder)
        or args[0].run is not _alias
        or not isinstance(args[1], tuple)
    ):
        raise m.unsafe("asks to call functools.reduce")
    return Stub(GlobalName("typing", "Alias"), args[1:])


# -- the table

_FUNCTIONS: dict[str, Call] = {
    "collections.OrderedDict": _dict, "collections.defaultdict": _dict, "collections.Counter": _dict,
    "builtins.dict": _dict, "builtins.list": _made(list), "builtins.set": _frozenset, "builtins.frozenset": _frozenset,
    "builtins.tuple": _made(tuple), "builtins.bytearray": _bytes("bytearray"), "builtins.bytes": _bytes("bytes"),
    "builtins.int": _number(int), "builtins.float": _number(float), "builtins.complex": _number(complex),
    "builtins.bool": _number(bool), "builtins.type": _type_of, "types.GenericAlias": _alias,
    "_operator.getitem": _alias, "_operator.or_": _alias, "_functools.reduce": _union, "builtins.reduce": _union,
    "_codecs.encode": _encode, "collections.deque": _made(list),
    "copyreg._reconstructor": _reconstructor, "copyreg.__newobj__": _newobj, "copyreg.__newobj_ex__": _newobj,
    "torch._utils._rebuild_tensor": _tensor, "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3, "torch._utils._rebuild_qtensor": _quantised,
    "torch._utils._rebuild_parameter": _parameter, "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _variable, "torch.autograd.variable.Variable": _variable,
    "torch._tensor._rebuild_from_type_v2": _from_type, "torch._tensor._rebuild_from_type": _from_type,
    "torch.tensor._rebuild_from_type": _from_type,
    "torch._utils._rebuild_device_tensor_from_numpy": of_device, "torch._utils._rebuild_xla_tensor": of_device,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_sparse_tensor": _unreadable("a sparse tensor (indices and values), which is not read; save to_dense() of it"),
    "torch._utils._rebuild_sparse_csr_tensor": _unreadable("a sparse tensor (indices, values), which is not read; save to_dense() of it"),
    "torch._utils._rebuild_nested_tensor": _unreadable("a nested tensor, which is not read; save unbind() of it"),
    "torch.nested._internal.nested_tensor._rebuild_njt": _unreadable("a nested tensor, which is not read; save unbind() of it"),
    "torch._utils._rebuild_meta_tensor_no_storage": _unreadable("a meta tensor: the file holds no values for it"),
    "torch._utils._rebuild_wrapper_subclass": _wrapped,
    "torch.nn.parameter.UninitializedParameter": _unreadable("an uninitialised parameter: it never had values"),
    "torch.nn.parameter.UninitializedBuffer": _unreadable("an uninitialised buffer: it never had values"),
    "torch.Size": _made(tuple), "torch.device": _text, "torch.serialization._get_layout": _text,
    "torch.jit._pickle.build_intlist": _first, "torch.jit._pickle.build_doublelist": _first,
    "torch.jit._pickle.build_boollist": _first, "torch.jit._pickle.build_tensorlist": _first,
    "torch.jit._pickle.build_tensor_from_id": _first, "torch.jit._pickle.restore_type_tag": _first,
    "numpy.dtype": array_type, "numpy.ndarray": array,
    **{f"numpy.{core}.multiarray._reconstruct": array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": array_of_buffer for core in ("core", "_core")},
}  # fmt: skip
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


def _known_globals() -> dict[tuple[str, str], Any]:
    calls = dict(_FUNCTIONS)
    for module in ("torch", "torch.cuda"):
        calls |= {f"{module}.{kind}Tensor": _without_values(f"{module}.{kind}Tensor") for kind in (*_STORAGES, "")}
    out: dict[tuple[str, str], Any] = {}
    for full, call in calls.items():
        module, _, name = full.rpartition(".")
        out[module, name] = Builder(full, call)
    for module in ("torch", "torch.cuda", "torch.storage", "torch.xpu"):
        kinds = [StorageType(f"{name}Storage", dtype.itemsize, dtype) for name, dtype in _STORAGES.items()]
        kinds += [StorageType(f"{name}Storage", size, None) for name, size in _QUANTISED.items()]
        out |= {(module, kind.name): kind for kind in kinds}
        untyped = StorageType("UntypedStorage", 1, DType.U8)
        out |= {(module, name): untyped for name in ("UntypedStorage", "_UntypedStorage")}
    out |= {("torch", dtype.label): dtype for dtype in DType}
    return out | {("torch", alias): DType.of(label) for alias, label in _DTYPE_ALIASES.items()}


KNOWN_GLOBALS: Mapping[tuple[str, str], Any] = _known_globals()
