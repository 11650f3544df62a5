"""Checkpoints that are in memory already: dictionaries of tensors, at any nesting, and modules."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from torchgraft.core.errors import LimitExceededError, UnsupportedCheckpointError, printable
from torchgraft.reading.finding.contents import Contents
from torchgraft.reading.pickles.inert import Record
from torchgraft.reading.tensors.leaves import Held

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DEPTH = 200


def is_module(value: object) -> bool:
    """Return whether `value` is an nn.Module; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and hasattr(torch, "nn") and isinstance(value, torch.nn.Module)


def read_memory(value: Any) -> Contents:
    """Return the tensors of a dictionary, a list or a module; they stay shared with the caller."""
    if is_module(value):
        return Contents(format="module", tree=_Converter().state_dict(value))
    return Contents(format="dict", tree=_Converter().node(value, ""))


class _Converter:
    """Wraps tensors as leaves, counting them so that their order is kept."""

    def __init__(self) -> None:
        self.count = 0
        self.made: dict[
            int, tuple[Any, Held]
        ] = {}  # with the tensor itself: an identity may be used again once it is gone
        self.above: list[int] = []

    def state_dict(self, module: Any) -> Record:
        state = module.state_dict(keep_vars=True)
        out = Record({k: self.node(v, k) for k, v in state.items()})
        out.attributes = {"_metadata": dict(getattr(state, "_metadata", {}))}
        return out

    def node(self, value: Any, name: str) -> Any:
        if len(self.above) > MAX_DEPTH:
            raise LimitExceededError(f"<dict>: nested to a depth of more than {MAX_DEPTH} at {printable(name)}")
        if isinstance(value, dict) or _is_mapping(value):
            return self._dict(value, name)
        if isinstance(value, (list, tuple)):
            return self._inside(value, lambda: [self.node(v, f"{name}.{i}") for i, v in enumerate(value)], name)
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor(value, name)
        if is_module(value):
            return self.state_dict(value)
        if type(value).__module__ == "numpy" and hasattr(value, "__array_interface__"):
            return self._array(value, name)
        return value

    def _dict(self, value: Mapping[Any, Any], name: str) -> Record:
        out = self._inside(value, lambda: Record({k: self.node(v, f"{name}.{k}") for k, v in value.items()}), name)
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

    def _tensor(self, value: Any, name: str) -> Held:
        known = self.made.get(id(value))
        if known is None:
            if value.layout is not sys.modules["torch"].strided or value.is_quantized:
                raise UnsupportedCheckpointError(
                    f"<dict>: tensor {printable(name)} is sparse or quantised, which is not read"
                )
            self.count += 1
            known = self.made[id(value)] = (value, Held(value.detach(), self.count))
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


def _is_mapping(value: Any) -> bool:
    return hasattr(type(value), "keys") and hasattr(type(value), "__getitem__") and hasattr(type(value), "items")
