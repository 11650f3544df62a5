"""Checkpoints that are in memory already: dictionaries of tensors, at any nesting, and modules."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torchgraft.core.errors import LimitExceededError, UnsupportedCheckpointError, printable
from torchgraft.core.layout import TakenMemory
from torchgraft.core.places import is_module, places
from torchgraft.core.specs import Source
from torchgraft.reading.contents import Contents
from torchgraft.reading.pickles.inert import PickledDict
from torchgraft.reading.source import OpenedCheckpoint
from torchgraft.reading.tensors import HeldTensor, StoredTensor

MAX_DEPTH = 200


def is_torch_module(value: object) -> bool:
    """Return whether `value` is an nn.Module; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "nn") and isinstance(value, torch.nn.Module)


def read_memory(value: Any) -> Contents:
    """Return the tensors of a dictionary, a list or a module; they stay shared with the caller."""
    if is_torch_module(value):
        return Contents(format="module", tree=_Converter().state_dict(value))
    return Contents(format="dict", tree=_Converter().node(value, ""))


class _Converter:
    """Wraps tensors, counting them so that their order is kept."""

    def __init__(self) -> None:
        self.count = 0
        # By identity, with the tensor itself: an identity may be used again once it is gone.
        self.made: dict[int, tuple[Any, HeldTensor]] = {}
        self.above: list[int] = []

    def state_dict(self, module: Any) -> PickledDict:
        state = module.state_dict(keep_vars=True)
        out = PickledDict({k: self.node(v, k) for k, v in state.items()})
        out.attributes = {"_metadata": dict(getattr(state, "_metadata", {}))}
        return out

    def node(self, value: Any, name: str) -> Any:
        if len(self.above) > MAX_DEPTH:
            raise LimitExceededError(f"<dict>: nested to a depth of more than {MAX_DEPTH} at {printable(name)}")
        if isinstance(value, dict) or _is_mapping(value):
            return self._dict(value, name)
        if isinstance(value, (list, tuple)):
            return self._inside(value, lambda: [self.node(v, _below(name, i)) for i, v in enumerate(value)], name)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(value, name)
        if is_torch_module(value):
            return self.state_dict(value)
        if type(value).__module__ == "numpy" and hasattr(value, "__array_interface__"):
            return self._array(value, name)
        return value

    def _dict(self, value: Mapping[Any, Any], name: str) -> PickledDict:
        keys = [_key(k) for k in value]
        keys = keys if len(set(keys)) == len(keys) else list(value)
        named = zip(keys, value.values(), strict=True)
        out = self._inside(value, lambda: PickledDict({k: self.node(v, _below(name, k)) for k, v in named}), name)
        facts = getattr(value, "_metadata", None)
        if isinstance(facts, dict):
            out.attributes = {"_metadata": dict(facts)}
        return out  # type: ignore[no-any-return]

    def _inside(self, value: Any, make: Any, name: str) -> Any:
        if id(value) in self.above:
            raise UnsupportedCheckpointError(f"<dict>: a cycle: {printable(name)} contains itself")
        self.above.append(id(value))
        try:
            return make()
        finally:
            self.above.pop()

    def _tensor(self, value: Any, name: str) -> HeldTensor:
        known = self.made.get(id(value))
        if known is None:
            if hasattr(value, "materialize"):
                raise UnsupportedCheckpointError(
                    f"<module>: {printable(name)} has no shape yet, as its module is lazy: run one forward pass before"
                )
            tensor = value.detach()
            if unread := _unread(tensor):
                kind, remedy = unread
                raise UnsupportedCheckpointError(
                    f"<dict>: tensor {printable(name)} is {kind}, which is not read; {remedy}"
                )
            self.count += 1
            try:
                known = self.made[id(value)] = (value, HeldTensor(tensor, self.count, printable(name)))
            except KeyError:
                raise UnsupportedCheckpointError(
                    f"<dict>: tensor {printable(name)} has element type {value.dtype}, which torchgraft does not know"
                ) from None
        return known[1]

    def _array(self, value: Any, name: str) -> Any:
        import torch

        if value.ndim == 0 and not hasattr(value, "setflags"):
            return value.item()
        try:
            native = value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))
            as_it_is = native.flags.writeable and min(native.strides, default=0) >= 0
            return self._tensor(torch.from_numpy(native if as_it_is else native.copy()), name)
        except TypeError:
            if value.ndim == 0:
                return value.item()
            raise UnsupportedCheckpointError(
                f"<dict>: array {printable(name)} has dtype {value.dtype}, which is no tensor's"
            ) from None


def _key(key: object) -> object:
    """Return a key of a dictionary; of Flax's flat ones, whose keys are tuples, as the path that it is."""
    if isinstance(key, tuple) and key and all(isinstance(part, (str, int)) for part in key):
        return ".".join(map(str, key))
    return key


def _below(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _unread(tensor: Any) -> tuple[str, str] | None:
    """Return what is unusual about a tensor, so that it can't be read, and what to do; None for all others."""
    if tensor.is_nested:
        return "nested", "give unbind() of it"
    if tensor.is_quantized:
        return "quantised", "give dequantize() of it"
    if tensor.layout is not sys.modules["torch"].strided:
        return "sparse", "give to_dense() of it"
    if tensor.is_meta or _has_memory(tensor):
        return None
    return "inside a transformation of torch.func", "load outside of it"


def _has_memory(tensor: Any) -> bool:
    """Return whether the tensor lies somewhere, which what torch's transformations wrap does not."""
    if type(tensor).__module__ != "torch":
        return True  # a class that is not torch's
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


def _is_mapping(value: Any) -> bool:
    return hasattr(type(value), "keys") and hasattr(type(value), "__getitem__") and hasattr(type(value), "items")


def apart_from(source: Source, model: object) -> Source:
    """Return `source` with copies of its tensors that reach into the memory of `model`.

    What is written to one place would change what is yet to be read for another: two weights of a model exchanged, or
    views of its own parameters. Files are as they are, and so is a source that is not ours; nothing given is changed.
    """
    if not isinstance(source, OpenedCheckpoint) or not is_module(model):
        return source
    held = {id(tensor): tensor for tensor in source.tensors() if isinstance(tensor, HeldTensor)}
    if not held:
        return source
    taken = TakenMemory(place.tensor for place in places(model))
    copies: dict[int, StoredTensor] = {
        number: HeldTensor(tensor.tensor.clone(), tensor.number, tensor.name)
        for number, tensor in held.items()
        if taken.meets(tensor.tensor)
    }
    return source.replaced(copies) if copies else source
