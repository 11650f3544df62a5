"""What becomes of the classes and functions that a pickle names, and of calls of them.

Nothing named here is ever imported. A name that `known_globals` has gives what stands there. Others are foreign: a class
gives a dead stand-in, a call of a function is refused, since its author meant code to run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchgraft.reading.pickles.inert import Builder, GlobalName, Member, PickledDict, Stub, TensorRef, Unreadable
from torchgraft.reading.pickles.known_globals import KNOWN_GLOBALS

if TYPE_CHECKING:
    from torchgraft.reading.pickles.machine import Machine

# Bytes of memory that what a call makes takes at least, and a stand-in with its containers.
A_CALL, A_STUB = 128, 320
_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins", "UserDict": "collections"}
# How Python 2, and so pickles of protocol 2, called some builtins.
_OLD_NAMES = {("builtins", "xrange"): "range", ("builtins", "long"): "int", ("builtins", "unicode"): "str"}
_STDLIB = sys.stdlib_module_names | {"commands", "cPickle", "urllib2", "popen2", "imp", "distutils", "asyncore"}

_EXCEPTIONS = frozenset({
    "ArithmeticError", "AssertionError", "AttributeError", "BrokenPipeError", "BufferError", "BytesWarning",
    "ChildProcessError", "ConnectionAbortedError", "ConnectionError", "ConnectionRefusedError",
    "ConnectionResetError", "DeprecationWarning", "EOFError", "EncodingWarning", "EnvironmentError",
    "Exception", "FileExistsError", "FileNotFoundError", "FloatingPointError", "FutureWarning", "IOError",
    "ImportError", "ImportWarning", "IndentationError", "IndexError", "InterruptedError", "IsADirectoryError",
    "KeyError", "LookupError", "MemoryError", "ModuleNotFoundError", "NameError", "NotADirectoryError",
    "NotImplementedError", "OSError", "OverflowError", "PendingDeprecationWarning", "PermissionError",
    "ProcessLookupError", "RecursionError", "ReferenceError", "ResourceWarning", "RuntimeError",
    "RuntimeWarning", "StopAsyncIteration", "StopIteration", "SyntaxError", "SyntaxWarning", "SystemError",
    "TabError", "TimeoutError", "TypeError", "UnboundLocalError", "UnicodeDecodeError", "UnicodeEncodeError",
    "UnicodeError", "UnicodeTranslateError", "UnicodeWarning", "UserWarning", "ValueError", "Warning",
    "ZeroDivisionError",
})  # fmt: skip
# Modules of the standard library whose classes only hold data. None: all of their classes.
_HARMLESS: Mapping[str, frozenset[str] | None] = {
    "_io": frozenset({"BytesIO", "StringIO"}),
    "argparse": frozenset({"Namespace"}),
    "array": frozenset({"array", "_array_reconstructor"}),
    "builtins": frozenset({
        "object", "int", "float", "str", "bytes", "bool", "list", "dict", "tuple", "set", "frozenset", "complex", "slice",
        "range", "type", "bytearray", "len", "min", "max", "sum", "abs", "round", "Ellipsis", "NotImplemented",
    }) | _EXCEPTIONS,
    "collections": None,
    "collections.abc": None,
    "copyreg": frozenset(),
    "dataclasses": frozenset({"_HAS_DEFAULT_FACTORY_CLASS"}),
    "datetime": None,
    "decimal": frozenset({"Decimal"}),
    "enum": None,
    "fractions": frozenset({"Fraction"}),
    "functools": frozenset({"partial"}),
    "logging": frozenset({"Logger", "getLogger"}),
    "math": None,
    "numbers": None,
    "pathlib": None,
    "random": frozenset({"Random"}),
    "re": frozenset({"RegexFlag"}),
    "time": frozenset({"struct_time"}),
    "types": frozenset({"SimpleNamespace"}),
    "typing": None,
    "uuid": frozenset({"UUID", "SafeUUID"}),
}  # fmt: skip
# Functions and lower-case classes that only make data out of their arguments.
_MAKERS = frozenset({
    "collections.deque", "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta",
    "datetime.timezone", "functools.partial", "logging.getLogger", "pathlib._local.PosixPath", "array.array",
    "array._array_reconstructor", "re._compile", "time.struct_time", "builtins.object", "builtins.slice", "builtins.range",
    "numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__bit_generator_ctor", "numpy.ma.core._mareconstruct", "numpy.datetime64",
    "pandas._libs.internals._unpickle_block", "pandas.core.indexes.base._new_Index",
    "torch.random.fork_rng", "torch.distributed.fsdp._common_utils.clean_tensor_name",
})  # fmt: skip
# What Cython generates for each of its classes, to make an object that is pickled.
_CYTHON = re.compile(r"__pyx_unpickle_\w+")
_ACTING_KEYS = frozenset({
    "__class__", "__reduce__", "__reduce_ex__", "__setstate__", "__getstate__", "__getattr__", "__getattribute__",
    "__setattr__", "__dict__", "__init__", "__new__", "__del__", "__call__", "__torch_function__",
    "__torch_dispatch__", "__init_subclass__", "__code__", "__globals__",
})  # fmt: skip


def class_like(name: str) -> bool:
    """Return whether `name` is spelled as a class: its last part begins with a capital."""
    return name.rpartition(".")[2].lstrip("_")[:1].isupper()


def _home(args: tuple[Any, ...]) -> GlobalName | None:
    """Return the class of which getattr is asked for a part by its name, None where it may be asked for something else.

    That is how protocols below 4 name a class in another one, Python 3.11.0 to 3.11.4 a member of an enumeration, and all of
    them a method of an object. What stands for a method can't be called.
    """
    if len(args) != 2 or type(args[1]) is not str or args[1].startswith("__"):
        return None
    home = args[0].kind if type(args[0]) is Stub else _named(args[0])
    return home if home is not None and class_like(home.name) and not home.forbidden else None


def _named(value: Any) -> GlobalName | None:
    """Return the class that `value` names: itself, or a class in another one. Members of enumerations are written in capitals."""
    if type(value) is Member and class_like(value.args[0]) and not value.args[0].isupper():
        return GlobalName(value.kind.module, f"{value.kind.name}.{value.args[0]}", value.kind.forbidden)
    return value if type(value) is GlobalName else None


class Globals:
    """The names that one pickle mentions. `foreign` are those that nothing is known of, in the order of the file."""

    def __init__(self) -> None:
        self.foreign: dict[GlobalName | str, None] = {}

    def foreign_names(self, *but: str) -> tuple[str, ...]:
        """Return the foreign names, sorted, without those that begin with one of `but`."""
        return tuple(sorted({text for text in map(str, self.foreign) if not text.startswith(but)}))

    def find(self, module: str, name: str) -> Any:
        """Return the builder or value that (module, name) stands for, or a foreign name."""
        module = _OLD_MODULES.get(module, module)
        name = _OLD_NAMES.get((module, name), name)
        found = KNOWN_GLOBALS.get((module, name))
        if found is not None:
            return found
        top = module.partition(".")[0]
        allowed = _HARMLESS.get(module, frozenset())
        forbidden = top in _STDLIB and not (allowed is None or name in allowed) and f"{module}.{name}" not in _MAKERS
        foreign = GlobalName(module, name, forbidden)
        self.foreign[foreign] = None
        return foreign

    def call(self, machine: Machine, callee: Any, args: Any) -> Any:
        """Return what calling `callee` stands for."""
        if type(args) is not tuple:
            raise machine.corrupt("the arguments of a call are no tuple")
        machine.spend(A_CALL)
        if type(callee) is Builder:
            return callee.run(machine, args)
        callee = _named(callee) or callee
        if isinstance(callee, GlobalName):
            full = str(callee)
            if full == "builtins.getattr" and (home := _home(args)):
                self.foreign.pop(callee, None)
                return Member(home, args[1:])
            if callee.forbidden or not (class_like(callee.name) or full in _MAKERS or _CYTHON.fullmatch(callee.name)):
                raise machine.unsafe(f"asks to call {full}")
            machine.spend(A_STUB)
            return Stub(callee, args)
        if isinstance(callee, Stub):
            raise machine.unsafe(f"asks to call an object of {callee}")
        raise machine.corrupt(f"a call of a {type(callee).__name__}")

    def new(self, machine: Machine, callee: Any, args: Any) -> Any:
        """Return what a new object of class `callee` stands for."""
        if type(args) is not tuple:
            raise machine.corrupt("the arguments of a new object are no tuple")
        callee = _named(callee) or callee
        if isinstance(callee, GlobalName) and not callee.forbidden:
            machine.spend(A_STUB)
            return Stub(callee, args)
        return self.call(machine, callee, args)

    def set_variable(self, machine: Machine, target: TensorRef | Unreadable, state: Any) -> None:
        """Take the state of a Variable of torch before 0.4: (requires_grad, volatile, hooks).

        The oldest, of five parts, begins with its tensor: (tensor, gradient, hooks, requires_grad, volatile).
        """
        if not isinstance(state, tuple) or len(state) not in (3, 5):
            raise machine.corrupt("a state is given to a tensor")
        if state[2]:
            raise machine.unsafe("a tensor carries backward hooks, which are code")
        if len(state) == 5:
            data = state[0]
            if not isinstance(target, TensorRef) or not isinstance(data, TensorRef):
                raise machine.corrupt("a variable without its tensor")
            target.storage, target.offset, target.shape, target.stride = (
                data.storage,
                data.offset,
                data.shape,
                data.stride,
            )
            target.dtype, target.conj, target.neg = data.dtype, data.conj, data.neg

    def check_state(self, machine: Machine, target: object, state: Any) -> None:
        """Raise UnsafeCheckpointError where a state would change what its object does."""
        title = (
            str(target)
            if isinstance(target, Stub)
            else "a dictionary"
            if isinstance(target, PickledDict)
            else "a tensor"
        )
        for part in (state if isinstance(state, tuple) else (state,))[:8]:
            acting = _ACTING_KEYS.intersection(k for k in part if isinstance(k, str)) if isinstance(part, dict) else ()
            if acting:
                raise machine.unsafe(f"sets {', '.join(sorted(acting))} through the state of {title}")
            if isinstance(part, GlobalName) and part.forbidden:
                raise machine.unsafe(f"puts {part} into an object of {title}")

    def finish(self, machine: Machine) -> None:
        """Refuse a pickle that mentioned something that only running code has a use for."""
        for name in self.foreign:
            if isinstance(name, GlobalName) and name.forbidden:
                raise machine.unsafe(f"refers to {name}")
