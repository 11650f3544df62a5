"""Models that are built without values for their parameters, so that a constructor costs next to nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from torchgraft.core.errors import TorchgraftError, UsageError, printable
from torchgraft.core.objects import a_kind
from torchgraft.core.places import modules

if TYPE_CHECKING:
    import torch
    from torch import nn


def on_meta(factory: Callable[[], nn.Module]) -> tuple[nn.Module | None, str]:
    """Return the model that `factory` makes with its parameters on the meta device, or None and why that can't be.

    Buffers and other tensors are real: constructors compute with them, and nobody else knows their values. An attempt
    that fails leaves torch's random state as it was.

    Raises:
        UsageError: the factory returns no module.
    """
    import torch

    random = torch.get_rng_state()
    try:
        with _parameters_on_meta():
            model = factory()
    except TorchgraftError:
        raise
    except Exception as error:  # noqa: BLE001  # the model's own code may raise anything on tensors without values
        torch.set_rng_state(random)
        return None, f"its code needs values ({type(error).__name__}: {printable(str(error), 120)})"
    _expect_module(model)
    stray = next(_stray(model), None)
    if stray is None:
        return model, ""
    torch.set_rng_state(random)
    return None, f"it keeps a tensor, {stray}, that is made from parameters and is none itself"


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Let modules that this thread builds register every parameter without its values.

    The memory that a parameter had before is given back untouched; what initialises it later does so on meta, for
    nothing. (Hugging Face's accelerate builds empty models at the same place.)
    """
    outer = _HERE.made
    _HERE.made = {}
    _REGISTRATION.take()
    try:
        yield
    finally:
        _REGISTRATION.give_back()
        _HERE.made = outer


class _Here(threading.local):
    """What this thread has made meanwhile, by id; the real parameters are kept, so that no id comes twice."""

    made: dict[int, tuple[nn.Parameter, nn.Parameter]] | None = None


class _Registration:
    """The registering of parameters, taken over while any thread builds: several may, and end in any order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._builders = 0
        self._plain: Any = None
        self._ours: Any = None

    def take(self) -> None:
        from torch import nn

        with self._lock:
            self._builders += 1
            if self._builders == 1:
                self._plain = nn.Module.register_parameter
                self._ours = nn.Module.register_parameter = _registering(self._plain)  # type: ignore[method-assign]

    def give_back(self) -> None:
        """Put the plain way back after the last one, unless somebody has taken it over from us."""
        from torch import nn

        with self._lock:
            self._builders -= 1
            if self._builders == 0 and nn.Module.register_parameter is self._ours:
                nn.Module.register_parameter = self._plain  # type: ignore[method-assign]


_HERE = _Here()
_REGISTRATION = _Registration()


def _registering(plain: Callable[..., None]) -> Callable[..., None]:
    """Return `plain` for threads that don't build, and for those that do a way that leaves values out."""

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        made = _HERE.made
        if made is not None and param is not None and _has_values(param):
            if id(param) not in made:
                made[id(param)] = (param, _without_values(param))
            param = made[id(param)][1]
        plain(self, name, param)

    return register


def _has_values(param: nn.Parameter) -> bool:
    from torch import nn

    return not isinstance(param, nn.parameter.UninitializedParameter) and not param.is_meta


def _without_values(param: nn.Parameter) -> nn.Parameter:
    """Return a parameter of the same class, shape, strides and attributes on the meta device."""
    import torch

    empty = torch.Tensor._make_subclass(type(param), param.detach().to("meta"), param.requires_grad)  # noqa: SLF001
    empty.__dict__.update(param.__dict__)
    found: nn.Parameter = empty
    return found


def with_values(factory: Callable[[], nn.Module], device: str | torch.device | None) -> nn.Module:
    """Return the model that `factory` makes, on `device`.

    Raises:
        UsageError: the factory returns no module.
    """
    model = factory()
    _expect_module(model)
    return model if device is None else model.to(device)


def _expect_module(made: object) -> None:
    from torch import nn

    if not isinstance(made, nn.Module):
        raise UsageError(f"the factory gives {a_kind(made)}; an nn.Module is needed")


def _stray(model: nn.Module) -> Iterator[str]:
    """Yield the names of tensors without values that neither a checkpoint nor an initialisation would reach."""
    reached = {id(tensor) for tensor in chain(model.parameters(), model.buffers())}
    for path, module in modules(model):
        for name, value in module.__dict__.items():
            if name not in _OWN:
                yield from (f"{path}.{name}{where}".removeprefix(".") for where in _meta_in(value, reached))


_OWN = frozenset({"_parameters", "_buffers", "_modules"})


def _meta_in(value: Any, reached: set[int], depth: int = 2) -> Iterator[str]:
    """Yield where unreached tensors on meta lie in an attribute: in itself, or inside of lists and dicts."""
    import torch

    if isinstance(value, torch.Tensor):
        if value.is_meta and id(value) not in reached:
            yield ""
    elif depth and isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from (f"[{number}]{rest}" for rest in _meta_in(inner, reached, depth - 1))
    elif depth and isinstance(value, dict):
        for key, inner in value.items():
            yield from (f"[{key!r}]{rest}" for rest in _meta_in(inner, reached, depth - 1))
