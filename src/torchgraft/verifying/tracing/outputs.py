"""What goes into a model and what comes out of it: any nesting of tensors, each with a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

if TYPE_CHECKING:
    from torch import nn


def call(model: nn.Module, given: Any) -> Any:
    """Run `model` on one input: a callable gets the model, a mapping is keywords, a tuple arguments, else one argument.

    Tensors are handed over as copies, since a model may write into what it is given.
    """
    if callable(given) and not isinstance(given, torch.Tensor):
        return given(model)
    own = tree_map(lambda one: one.clone() if isinstance(one, torch.Tensor) else one, given)
    if isinstance(given, Mapping):
        return model(**own)
    if isinstance(given, tuple):
        return model(*own)
    return model(own)


def named_tensors(value: Any, name: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors in an output by name: `logits`, `0`, `hidden_states.3`; a single tensor is called `output`."""
    found: dict[str, torch.Tensor] = {}
    if isinstance(value, torch.Tensor):
        found[name or "output"] = value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            found |= named_tensors(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for key, item in enumerate(value):
            found |= named_tensors(item, f"{name}.{key}" if name else str(key))
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            found |= named_tensors(getattr(value, one.name), f"{name}.{one.name}" if name else one.name)
    return found
