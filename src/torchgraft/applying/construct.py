"""Models that are built without values for their parameters, so that a constructor costs next to nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from torchgraft.core.errors import TorchgraftError, UsageError, printable
from torchgraft.core.objects import a_kind
from torchgraft.core.places import modules, places
from torchgraft.core.system.random_state import kept_random_states

if TYPE_CHECKING:
    import torch
    from torch import nn

    _Made = dict[int, tuple[nn.Parameter, nn.Parameter]]


def refuse_mixed_meta() -> AbstractContextManager[object]:
    """Let operations fail that change tensors by others on the meta device: torch leaves them as they were without a word."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Unmixed(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = [one for one in tree_leaves((args[1:], kwargs)) if isinstance(one, torch.Tensor)]
            changed = [one for one in tree_leaves(args[:1]) if isinstance(one, torch.Tensor)]
            if any(one.is_meta for one in given) and not all(one.is_meta for one in changed):
                raise RuntimeError(f"{func} of tensors with and without values")
            return func(*args, **(kwargs or {}))

    return Unmixed()  # type: ignore[no-untyped-call]


class Constructor:
    """Makes a model again with values for some of its parameters alone: those that its code gives them."""

    def __init__(self, factory: Callable[[], nn.Module], order: Mapping[str, int]) -> None:
        """Remember by name the number under which each parameter of the model was registered."""
        self._factory = factory
        self._order = order

    def knows(self, name: str) -> bool:
        """Whether the parameter was made while its values were left out."""
        return name in self._order

    def values(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Return the values of parameters by name, without those that the code has not made this time.

        Nothing where the code can't run while others have no values.
        """
        wanted = [name for name in names if self.knows(name)]
        if not wanted:
            return {}
        try:
            with _parameters_on_meta(frozenset(self._order[name] for name in wanted)), refuse_mixed_meta():
                found = {place.name: place.tensor for place in places(self._factory())}
        except Exception:  # noqa: BLE001  # the model's own code may raise anything on tensors without values
            return {}
        return {name: found[name].detach() for name in wanted if name in found and not found[name].is_meta}


def build_on_meta(factory: Callable[[], nn.Module]) -> tuple[tuple[nn.Module, Constructor] | None, str]:
    """Return the model that `factory` makes with its parameters on the meta device, and what makes it; or None and why that can't be.

    Buffers and other tensors are real: constructors compute with them, and their values are known nowhere else. An attempt
    that fails leaves random states as they were.

    Raises:
        UsageError: the factory returns no module.
    """
    put_random_states_back = kept_random_states()
    try:
        with _parameters_on_meta() as made:
            model = factory()
    except TorchgraftError:
        raise
    except Exception as error:  # noqa: BLE001  # the model's own code may raise anything on tensors without values
        put_random_states_back()
        return None, f"its code needs values ({type(error).__name__}: {printable(str(error), 120)})"
    _expect_module(model)
    stray = next(_unreachable(model), None)
    if stray is None:
        order = {id(empty): at for at, (_, empty) in enumerate(made.values())}
        known = {place.name: order[id(place.tensor)] for place in places(model) if id(place.tensor) in order}
        return (model, Constructor(factory, known)), ""
    put_random_states_back()
    return None, f"it keeps a tensor, {stray}, that is made from parameters and is none itself"


@contextmanager
def _parameters_on_meta(kept: frozenset[int] = frozenset()) -> Iterator[_Made]:
    """Let modules that this thread builds register every parameter without its values, but for the `kept` ones by their number.

    The memory that a parameter had before is given back untouched; what initialises it later does so on meta, for
    nothing. (Hugging Face's accelerate builds empty models at the same place.)
    """
    outer = _HERE.made, _HERE.kept
    _HERE.made, _HERE.kept = {}, kept
    _REGISTRATION.take()
    try:
        yield _HERE.made
    finally:
        _REGISTRATION.give_back()
        _HERE.made, _HERE.kept = outer


class _Here(threading.local):
    """What this thread has made meanwhile, by id; the real parameters are kept, so that no id comes twice."""

    made: _Made | None = None
    kept: frozenset[int] = frozenset()


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
                made[id(param)] = (param, param if len(made) in _HERE.kept else _without_values(param))
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


def build_with_values(factory: Callable[[], nn.Module], device: str | torch.device | None) -> nn.Module:
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


def _unreachable(model: nn.Module) -> Iterator[str]:
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
