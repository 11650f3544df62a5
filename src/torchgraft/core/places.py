"""Where a model keeps its tensors: one walk over its modules, shared by all who look a tensor up by name.

Works on any object with the inner dicts of a torch module; torch itself is never imported here.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import nn


class Place(NamedTuple):
    """One name of one tensor: where it is registered, and the tensor now there.

    `name` is the key in the model's state dict; `module` (at the dotted path `owner`) registers it as `attr`.
    """

    name: str
    owner: str
    module: nn.Module
    attr: str
    tensor: torch.Tensor
    is_buffer: bool
    persistent: bool

    @property
    def home(self) -> dict[str, torch.Tensor | None]:
        """The module's dict that holds the tensor."""
        return self.module._buffers if self.is_buffer else self.module._parameters  # type: ignore[return-value]  # noqa: SLF001

    @property
    def now(self) -> torch.Tensor | None:
        """The tensor that the module holds under this name at present; None when it holds none."""
        return self.home.get(self.attr)


class Walk:
    """One walk over a model, handed on by those who look its tensors up one after the other.

    `modules` and `places` are as the functions of these names return them, at the time of the walk.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.modules = modules(model)

    @cached_property
    def places(self) -> list[Place]:
        """Every tensor under every one of its names."""
        return places(self.model, self.modules)


def walk_of(model: nn.Module | Walk) -> Walk:
    """Return the walk over a model, unless it is there already."""
    return model if isinstance(model, Walk) else Walk(model)


def is_spread(tensor: torch.Tensor) -> bool:
    """Return whether several processes hold the tensor together (a DTensor)."""
    return hasattr(type(tensor), "to_local") and hasattr(tensor, "device_mesh")  # a class is asked faster than a tensor


def here(tensor: torch.Tensor) -> torch.Tensor:
    """Return what this process holds of a tensor: the local shard, sharing its memory; an ordinary tensor as it is."""
    if not is_spread(tensor):
        return tensor
    local: torch.Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
    return local


def modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return every module under every one of its dotted paths, parents first, in registration order.

    A module that is reachable twice comes twice, as its tensors come twice in the state dict.
    """
    out: list[tuple[str, nn.Module]] = []
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        out.append((path, module))
        children = module._modules  # noqa: SLF001  # the public iterators are five times slower
        if children:
            prefix = path + "." if path else ""
            stack.extend([(prefix + name, child) for name, child in reversed(children.items()) if child is not None])
    return out


def places(model: nn.Module, walked: list[tuple[str, nn.Module]] | None = None) -> list[Place]:
    """Return every tensor of `model` under every one of its state-dict names, in state-dict order.

    Buffers that no state dict holds come with `persistent=False`, after the persistent tensors of their module.
    `walked` is the result of `modules`, where the caller has it already.
    """
    walked = modules(model) if walked is None else walked
    found: list[Place] = []
    for path, module in walked:
        if module._parameters or module._buffers:  # noqa: SLF001  # most modules only hold others
            _collect(path, module, found)
    if _renames(walked):
        return _renamed(model, found)
    return found


def _collect(path: str, module: nn.Module, found: list[Place]) -> None:
    """Append the tensors that `module` itself registers."""
    prefix = path + "." if path else ""
    for attr, tensor in module._parameters.items():  # noqa: SLF001
        if tensor is not None:
            found.append(Place(prefix + attr, path, module, attr, tensor, False, True))
    buffers = module._buffers  # noqa: SLF001
    if not buffers:
        return
    hidden = module._non_persistent_buffers_set  # noqa: SLF001
    for attr, buffer in buffers.items():
        if buffer is not None and attr not in hidden:
            found.append(Place(prefix + attr, path, module, attr, buffer, True, True))
    for attr, buffer in buffers.items():
        if buffer is not None and attr in hidden:
            found.append(Place(prefix + attr, path, module, attr, buffer, True, False))


def _renames(walked: list[tuple[str, nn.Module]]) -> bool:
    """Return whether some module can give its tensors other names in the state dict than their dotted paths."""
    if any(module._state_dict_hooks or module._state_dict_pre_hooks for _, module in walked):  # noqa: SLF001
        return True
    kinds = {type(module) for _, module in walked}  # a large model has few classes
    return any(
        _defined_outside_torch(kind.state_dict) or _defined_outside_torch(kind._save_to_state_dict)  # noqa: SLF001
        for kind in kinds
    )


def _defined_outside_torch(function: Callable[..., object]) -> bool:
    """Return whether a method overrides the one of `torch.nn.Module`."""
    return getattr(function, "__module__", "") != "torch.nn.modules.module"


def _renamed(model: nn.Module, found: list[Place]) -> list[Place]:
    """Return `found` under the names that the model's own `state_dict` gives the very same tensors.

    A parameter that the state dict leaves out keeps its path and is marked as not persistent.
    """
    names: dict[int, list[str]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        names.setdefault(id(value), []).append(name)
    out: list[Place] = []
    for place in found:
        own = names.get(id(place.tensor), [])
        if not own:
            out.append(place._replace(persistent=False))
            continue
        name = place.name if place.name in own else own[0]
        own.remove(name)
        out.append(place._replace(name=name, persistent=True))
    return out
