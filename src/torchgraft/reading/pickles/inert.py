"""What a pickle becomes here: plain values, descriptions of tensors, and named stand-ins that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torchgraft.core.dtypes import DType


@dataclass(frozen=True, slots=True)
class GlobalName:
    """A class or function that a pickle mentions. It is never imported."""

    module: str
    name: str
    forbidden: bool = False

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class PickledDict(dict[Any, Any]):
    """A dictionary that may carry attributes, as the `_metadata` of a state dict."""

    __slots__ = ("attributes",)

    def __init__(self, *items: Any) -> None:
        super().__init__(*items)
        self.attributes: dict[Any, Any] | None = None


class Py2Text(str):
    """Bytes that Python 2 called a string, each as the character of its number: nothing is lost."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Builder:
    """A name that is known: what a call of it gives, by a function of ours that gets the machine and the arguments."""

    name: str
    run: Callable[[Any, tuple[Any, ...]], Any]

    def __str__(self) -> str:
        return self.name


@dataclass(slots=True, eq=False, repr=False)
class Stub:
    """A dead object of some class: what was given to make it, its state, and what was put into it."""

    kind: GlobalName
    args: tuple[Any, ...] = ()
    state: Any = None
    items: PickledDict = field(default_factory=PickledDict)
    values: list[Any] = field(default_factory=list)

    def __str__(self) -> str:
        named = [a for a in self.args[:4] if isinstance(a, (GlobalName, Stub))]
        inner = [str(a.kind if isinstance(a, Stub) else a) for a in named]  # one step down: an object may hold itself
        return f"{self.kind}({', '.join(inner)})" if inner else str(self.kind)

    def __repr__(self) -> str:
        return str(self)


class Member(Stub):
    """What `getattr(kind, name)` gives, `args` being the name: a class in another, a member of an enumeration, a method."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class StorageType:
    """The class of a storage. `dtype` is None where torch has a type that has no counterpart here (quantised)."""

    name: str
    itemsize: int
    dtype: DType | None


@dataclass(slots=True, eq=False)
class StorageRef:
    """A storage by its key, with as many elements as the pickle says. `found` is where it lies, once that is known."""

    key: str
    kind: StorageType
    numel: int
    found: Any = None

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * self.kind.itemsize


@dataclass(slots=True, eq=False, repr=False)
class TensorRef:
    """A view of a storage, exactly as the pickle has it: nothing about it is checked yet.

    `conj` and `neg` say that it is read conjugated or negated. `tensor` is the tensor made of it, once there is one.
    """

    storage: Any
    offset: Any
    shape: Any
    stride: Any
    dtype: DType | None = None
    conj: bool = False
    neg: bool = False
    tensor: Any = None

    def __repr__(self) -> str:
        return "a tensor"


@dataclass(frozen=True, slots=True, eq=False)
class Unreadable:
    """A tensor of a kind that is not read, and why; `view` is what can be checked of it."""

    why: str
    view: TensorRef | None = None


@dataclass(slots=True, eq=False)
class ArrayType:
    """A numpy element type as it stands in a pickle: `f8`, and its byte order."""

    code: str
    order: str = "<"

    def set_state(self, state: Any) -> str:
        """Take the state (version, order, subtype, names, ...); return what is wrong with it, "" where nothing is."""
        if not isinstance(state, tuple) or len(state) < 5:
            return _SHORT_STATE
        self.order = state[1] if state[1] in (">", "<") else "<"
        if state[3] is not None or state[2] is not None:
            self.code = "V" + self.code
        return ""


@dataclass(slots=True, eq=False, repr=False)
class Array:
    """A numpy array out of a pickle: shape, type, and the bytes (or, for objects, the values).

    `axes` are those that are exchanged once it has its shape, `wanted` is the element type of the tensor that it stands for.
    """

    shape: tuple[int, ...] = ()
    type: ArrayType | None = None
    fortran: bool = False
    data: bytes = b""
    values: list[Any] = field(default_factory=list)
    axes: tuple[int, ...] | None = None
    wanted: DType | None = None

    def set_state(self, state: Any) -> str:
        """Take the state (version, shape, type, order, bytes); return what is wrong with it, "" where nothing is."""
        if not isinstance(state, tuple) or len(state) < 5:
            return _SHORT_STATE
        _, shape, kind, fortran, data = state[-5:]
        if not isinstance(kind, ArrayType) or not isinstance(shape, tuple):
            return "a numpy array without its type and shape"
        self.shape, self.type, self.fortran = shape, kind, bool(fortran)
        if isinstance(data, list):
            self.values = data
        else:
            self.data = as_bytes(data)
        return ""


_SHORT_STATE = "a numpy state that is no tuple of five or more"


def as_bytes(data: Any) -> Any:
    """Return the bytes that Python 2 pickled as text, others as they are."""
    return data.encode("latin-1") if isinstance(data, str) else data


_KINDS = {
    "PickledDict": "dictionary", "TensorRef": "tensor", "Unreadable": "tensor", "Array": "numpy array",
    "Stub": "object", "Member": "object",
    "GlobalName": "class", "StorageRef": "storage", "StorageType": "type of storages",
}  # fmt: skip
_WHOLE = (bool, float, type(None))


def brief(value: Any, limit: int = 60) -> str:
    """Return `value` as text of about `limit` characters, without going down into it.

    `repr` would go every way there is: of a small pickle in which each list holds the one before it twice, without end.
    """
    if isinstance(value, (str, bytes)):
        return repr(value[:limit])[:limit]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)[:limit] if value.bit_length() < 2000 else f"a number of {value.bit_length()} bits"
    if isinstance(value, _WHOLE):
        return repr(value)
    if isinstance(value, (tuple, list)):
        left, right = "()" if isinstance(value, tuple) else "[]"
        inner = ", ".join(brief(v, 20) if not isinstance(v, (tuple, list)) else "…" for v in value[:12])
        end = ", …" if len(value) > 12 else "," if len(value) == 1 and left == "(" else ""
        return f"{left}{inner}{end}{right}"[:limit]
    return f"a {_KINDS.get(type(value).__name__, type(value).__name__)}"
