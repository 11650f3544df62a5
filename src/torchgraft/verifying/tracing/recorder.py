"""Records what a model does: a dispatch mode sees every ATen operation, below autograd and above the kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from torchgraft.core.places import modules
from torchgraft.core.results.recording import Fingerprint, Operation, Recording, Value
from torchgraft.core.specs import Shape
from torchgraft.core.types import Module, Tensor
from torchgraft.verifying.tracing.fingerprints import fingerprint, scaled


class ModuleTracker:
    """The path and class of the innermost module of one model that is running now."""

    def __init__(self, model: Module) -> None:
        self._paths: dict[int, str] = {}
        for path, module in modules(model):
            self._paths.setdefault(id(module), path)
        self._stack: list[tuple[str, str]] = []

    @property
    def current(self) -> tuple[str, str]:
        """Path and class name of the innermost running module."""
        return self._stack[-1] if self._stack else ("", "")

    @property
    def is_running(self) -> bool:
        """Whether the model, or a module of it, is running: not so while a callable makes the inputs for it."""
        return bool(self._stack)

    @contextmanager
    def tracking(self) -> Iterator[None]:
        """Follow the model: no module gets a hook of its own, and what was added is gone afterwards."""

        def enter(module: Module, _: object) -> None:
            path = self._paths.get(id(module))
            if path is not None:
                self._stack.append((path, type(module).__name__))

        def leave(module: Module, *_: object) -> None:
            if id(module) in self._paths and self._stack:
                self._stack.pop()

        hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


# Operations whose output holds exactly the entries of their first input: what comes out is the same value.
_SAME_ENTRIES = frozenset({
    "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "unsqueeze", "squeeze", "alias", "detach",
    "clone", "lift_fresh", "lift_fresh_copy", "contiguous", "_reshape_alias", "movedim", "swapaxes", "view_as",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "expand", "_to_copy", "to",
})  # fmt: skip
_VIEWS = frozenset({
    "slice", "select", "split", "split_with_sizes", "unbind", "chunk", "narrow", "diagonal", "unfold", "as_strided",
    "expand", "index_select", "cat", "stack",
})  # fmt: skip
_UNINITIALISED = ("empty", "new_empty")  # memory without values as yet
_SMALL_NUMEL = 1 << 20


class Call(NamedTuple):
    """One operation that is about to run: its tensors, their argument names, and the numbers of their values."""

    func: Any
    args: Any
    kwargs: Any
    name: str
    arguments: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[int, ...]

    @property
    def is_mutable(self) -> bool:
        """Whether the operation writes into its arguments."""
        return bool(self.func._schema.is_mutable)  # noqa: SLF001

    def run(self) -> Any:
        """Return the result."""
        return self.func(*self.args, **self.kwargs)


class Recorder(TorchDispatchMode):
    """While entered, records every operation with fingerprints of its results; `recording` returns all of it.

    Tensors are known by identity; of one whose memory was written to since (through a view, say) a new fingerprint is taken.
    """

    def __init__(self, tracker: ModuleTracker, names: Mapping[int, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracker = tracker
        self._names = names
        self._operations: list[Operation] = []
        self._values: list[Value] = []
        self._known: Any = WeakIdKeyDictionary()
        self._writes: dict[int, tuple[int, int]] = {}
        self._clock = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and record it."""
        del types
        kwargs = kwargs or {}
        schema = func._schema  # noqa: SLF001  # the operator's own description; it has no public name
        arguments, tensors, settings = _split_arguments(schema.arguments, args, kwargs)
        inputs = tuple(self._number_of(t) for t in tensors)
        shapes = tuple(tuple(t.shape) for t in tensors)
        call = Call(func, args, kwargs, schema.name.partition("::")[2], tuple(arguments), tuple(tensors), inputs)
        out = self._execute(call)
        if results := list(_tensors_in(out)):
            self._clock += 1
            if _keeps_entries(call, results):
                self._known[results[0]] = (inputs[0], self._clock)
            else:
                self._record(call, shapes, settings, results)
        return out

    def _record(
        self, call: Call, shapes: tuple[Shape, ...], settings: Mapping[str, object], results: list[Tensor]
    ) -> None:
        index = len(self._operations)
        live, weights = self._origin(call.inputs)
        has_float = any(map(_is_float, results))
        numbers = []
        for tensor in results:
            taken = not call.name.startswith(_UNINITIALISED) and (_is_float(tensor) or not has_float)
            found = self._fingerprint(call, tensor) if taken else None
            value = Value(op=index, shape=tuple(tensor.shape), fingerprint=found, weights=weights, live=live)
            numbers.append(self._add(tensor, value))
            if call.is_mutable:
                self._writes[_memory(tensor)] = (index, self._clock)
        path, kind = self._tracker.current
        operation = Operation(
            name=call.name,
            module=path,
            kind=kind,
            settings=settings,
            arguments=call.arguments,
            inputs=call.inputs,
            shapes=shapes,
            outputs=tuple(numbers),
            is_view=call.name in _VIEWS,
        )
        self._operations.append(operation)

    def _execute(self, call: Call) -> Any:
        """Run one operation; a recorder that chooses weights does so here."""
        return call.run()

    def recording(self, outputs: Sequence[Tensor], failure: str = "") -> Recording:
        """Return the recording; `outputs` are the tensors that the model returned."""
        numbers = tuple(self._number_of(t) for t in outputs)
        return Recording(
            operations=tuple(self._operations),
            values=tuple(self._values),
            outputs=numbers,
            failure=failure,
        )

    def _number_of(self, tensor: Tensor) -> int:
        """Return the number of the value that a tensor now holds."""
        known = self._known.get(tensor)
        written = self._writes.get(_memory(tensor))
        if known is not None and (written is None or written[1] <= known[1]):
            return int(known[0])
        if known is None:
            name = self._names.get(id(tensor))
            if written is None or name is not None:
                found = None if name is not None or tensor.numel() > _SMALL_NUMEL else fingerprint(tensor)
                weights = () if name is None else (name,)
                return self._add(
                    tensor, Value(shape=tuple(tensor.shape), fingerprint=found, weights=weights, live=name is None)
                )
        op = written[0] if written else -1
        return self._add(tensor, Value(op=op, shape=tuple(tensor.shape), fingerprint=fingerprint(tensor)))

    def _fingerprint(self, call: Call, result: Tensor) -> Fingerprint | None:
        if call.name == "expand" and call.tensors[0].numel():
            base = self._values[call.inputs[0]].fingerprint
            if base is not None and result.numel() % base.numel == 0:
                return scaled(base, result.numel() // base.numel)
        return fingerprint(result)

    def _origin(self, inputs: Sequence[int]) -> tuple[bool, tuple[str, ...]]:
        """Return whether a result depends on the model's inputs, or is one of them, and else the weights that it was made of."""
        used = [self._values[n] for n in inputs]
        if any(value.live for value in used):
            return True, ()
        weights = tuple(dict.fromkeys(name for value in used for name in value.weights))
        return not (weights or self._tracker.is_running), weights

    def _add(self, tensor: Tensor, value: Value) -> int:
        self._values.append(value)
        number = len(self._values) - 1
        self._known[tensor] = (number, self._clock)
        return number


def _keeps_entries(call: Call, results: list[Tensor]) -> bool:
    """Whether what comes out of an operation holds exactly the entries of its first input."""
    if call.name not in _SAME_ENTRIES or call.is_mutable or len(results) != 1 or not call.tensors:
        return False
    return call.tensors[0].numel() == results[0].numel() and call.tensors[0].dtype == results[0].dtype


def _is_float(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _memory(tensor: Tensor) -> int:
    """Return what tells apart the memory in which tensors lie."""
    if tensor.layout is not torch.strided:
        return id(tensor)
    return int(tensor.untyped_storage()._cdata)  # noqa: SLF001


def _split_arguments(schema: Any, args: Any, kwargs: Any) -> tuple[list[str], list[Tensor], dict[str, object]]:
    """Return the names of tensor arguments, these tensors, and all other arguments by name."""
    names: list[str] = []
    tensors: list[Tensor] = []
    settings: dict[str, object] = {}
    given = [(schema[i].name if i < len(schema) else str(i), a) for i, a in enumerate(args)] + list(kwargs.items())
    for name, value in given:
        found = list(_tensors_in(value))
        if found:
            names.extend([name] * len(found))
            tensors.extend(found)
        else:
            settings[name] = _plain(value)
    for argument in schema[len(args) :]:
        if argument.name not in kwargs and argument.has_default_value():
            settings.setdefault(argument.name, _plain(argument.default_value))
    return names, tensors, settings


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors_in(item)


def _plain(value: Any) -> object:
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
