"""Copies of what a module keeps beside its tensors, for code that may change it where it stands."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from typing import Any

from torchgraft.core.types import Tensor

LARGE = 1 << 20  # bytes: of a tensor that has more, only its shape and type are shown


def aside(value: Any) -> Any:
    """Return a copy of a container or a tensor, at any nesting; anything else as it is.

    Only classes of Python itself are copied: what others do when they are built anew is theirs.
    """
    kind: Any = type(value)
    if kind in (list, set, deque):
        return kind(map(aside, value))
    if kind in (dict, OrderedDict):
        return kind((key, aside(one)) for key, one in value.items())
    if kind is defaultdict:
        return defaultdict(value.default_factory, {key: aside(one) for key, one in value.items()})
    if kind is bytearray:
        return bytearray(value)
    return _tensor(value) if _is_tensor(value) else value


def is_as_before(old: Any, new: Any) -> bool:
    """Return whether `new`, which code was given in place of `old`, still holds the same."""
    if old is new:
        return True
    if type(old) is not type(new):
        return False
    if isinstance(old, dict):
        return list(old) == list(new) and all(is_as_before(old[key], new[key]) for key in old)
    if isinstance(old, (list, deque)):
        return len(old) == len(new) and all(map(is_as_before, old, new))
    if _is_tensor(old):
        return _holds_the_same(old, new)
    return isinstance(old, (bool, int, float, str, set, bytearray)) and old == new


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _tensor(value: Tensor) -> Tensor:
    import torch

    try:
        if value.is_meta or value.nbytes <= LARGE:
            return value.detach().clone()
        return torch.empty_like(value, device="meta")
    except (RuntimeError, NotImplementedError, TypeError):  # lazy, nested, or of a class of its own
        return value


def _holds_the_same(old: Tensor, new: Tensor) -> bool:
    import torch

    if old.shape != new.shape or old.dtype is not new.dtype:
        return False
    return new.is_meta or torch.equal(old.detach().nan_to_num(), new.detach().nan_to_num())
