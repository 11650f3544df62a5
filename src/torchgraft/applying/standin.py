"""Stand-ins of modules, on which the model's own initialising code can run without touching the model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

_BYTE = 0x55  # what integers are marked with, byte by byte: no initialisation leaves it everywhere
_TELLING = 4  # of so many bytes, a single mark that is left says that not all was set


class StandIn:
    """A copy of a module tree in structure: the `wanted` tensors (by identity) real and marked, the others as told."""

    def __init__(self, module: nn.Module, wanted: set[int], others: str = "meta") -> None:
        self._wanted = wanted
        self._others = others
        self._tensors: dict[int, tuple[torch.Tensor, int]] = {}
        self._homes: dict[int, tuple[dict[str, Any], str]] = {}
        self._modules: dict[int, nn.Module] = {}
        self.module = self._copy(module)

    def result(self, original: torch.Tensor) -> torch.Tensor | None:
        """Return the values that were set for `original`, None where it still bears the mark."""
        import torch

        entry = self._tensors.get(id(original))
        if entry is None or id(original) not in self._wanted:
            return None
        given, version = entry
        home, attr = self._homes[id(original)]
        now = home.get(attr)
        if not isinstance(now, torch.Tensor) or now.is_meta:
            return None
        if now.is_floating_point() or now.is_complex():
            return None if bool(torch.isnan(now).any()) else now.detach()
        marked = now == _mark(now)
        if now.dtype is not torch.bool and now.element_size() >= _TELLING:
            return None if bool(marked.any()) else now.detach()
        untouched = now is given and now._version == version and bool(marked.all())  # noqa: SLF001
        return None if untouched else now.detach()

    def _copy(self, module: nn.Module) -> nn.Module:
        if id(module) in self._modules:
            return self._modules[id(module)]
        copy = module.__class__.__new__(module.__class__)
        self._modules[id(module)] = copy
        copy.__dict__.update(module.__dict__)
        for name in ("_parameters", "_buffers"):
            home = {attr: None if t is None else self._tensor(t) for attr, t in module.__dict__[name].items()}
            copy.__dict__[name] = home
            for attr, t in module.__dict__[name].items():
                if t is not None:
                    self._homes.setdefault(id(t), (home, attr))
        children = module._modules.items()  # noqa: SLF001
        copy.__dict__["_modules"] = {name: None if child is None else self._copy(child) for name, child in children}
        copy.__dict__["_non_persistent_buffers_set"] = set(module._non_persistent_buffers_set)  # noqa: SLF001
        return copy

    def _tensor(self, original: torch.Tensor) -> torch.Tensor:
        import torch

        if id(original) in self._tensors:
            return self._tensors[id(original)][0]
        wanted = id(original) in self._wanted
        made = torch.empty(original.shape, dtype=original.dtype, device="cpu" if wanted else self._others)
        if wanted:
            made.fill_(_mark(made))
        if isinstance(original, torch.nn.Parameter):
            made = torch.nn.Parameter(made, requires_grad=original.requires_grad)
        self._tensors[id(original)] = (made, made._version)  # noqa: SLF001
        return made


def _mark(tensor: torch.Tensor) -> float | bool:
    """Return the value that says `not set yet` in the type of `tensor`."""
    import torch

    if tensor.is_floating_point() or tensor.is_complex():
        return float("nan")
    return True if tensor.dtype is torch.bool else int.from_bytes(bytes([_BYTE]) * tensor.element_size(), "little")


def rebuilt(module: nn.Module) -> nn.Module | None:
    """Return a new module of the same class and arguments, on the CPU, where the module keeps all its arguments.

    Each parameter of the constructor but `device` and `dtype` must be an attribute of that name, and the module must
    have no parameters: only then is nothing guessed, and nothing costly built.
    """
    import torch

    if next(module.parameters(), None) is not None:
        return None
    arguments = _arguments(module)
    if arguments is None:
        return None
    try:
        with torch.device("cpu"):
            return type(module)(**arguments)
    except Exception:  # noqa: BLE001  # the model's own code may raise anything: it is one attempt of several
        return None


def _arguments(module: nn.Module) -> dict[str, Any] | None:
    """Return the constructor's arguments as the module keeps them, None when some are not there."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(module).__init__).parameters.items():
        if name in ("self", "device", "dtype"):
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            return None
        if name not in module.__dict__:
            return None
        found[name] = module.__dict__[name]
    return found
