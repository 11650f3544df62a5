"""Where a model keeps its tensors: one walk over its modules, shared by all who look a tensor up by name.

Works on any object with the inner dicts of a torch module; torch itself is never imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeGuard

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.layout import NO_MEMORY, identity_of
from torchgraft.core.objects import a_kind
from torchgraft.core.types import Module, Tensor

LONGEST = 10_000  # characters of a path: one that is longer goes round in circles


class Place(NamedTuple):
    """One name of one tensor: where it is registered, and the tensor now there.

    `name` is the key in the model's state dict; `module` (at the dotted path `owner`) registers it as `attr`.
    """

    name: str
    owner: str
    module: Module
    attr: str
    tensor: Tensor
    is_buffer: bool
    persistent: bool


class Walk:
    """One walk over a model, handed on by those who look its tensors up one after the other.

    Each module is visited once: in a large model, to reach one again costs more than what is asked of it. `modules` has every
    module under every one of its dotted paths, parents first, in registration order; one that is reachable twice comes
    twice, as its tensors come twice in the state dict. `kinds` are their classes, `hooked` those with hooks that see state
    dicts, `parametrized` those with tensors that torch's parametrize computes.

    Raises:
        UsageError: a module is registered inside itself.
    """

    def __init__(self, model: Module) -> None:
        self.model = model
        self.modules: list[tuple[str, Module]] = []
        self.hooked: list[tuple[str, Module]] = []
        self.parametrized: list[tuple[str, Module]] = []
        self._found: list[Place] = []
        below: list[tuple[str, Iterator[tuple[str, Module | None]]]] = [("", iter([("", model)]))]
        while below:
            prefix, rest = below[-1]
            for name, module in rest:
                if module is None:
                    continue
                path = prefix + name
                self._visit(path, module)
                if inner := module._modules:  # noqa: SLF001  # the public iterators are five times slower
                    _expect_end(path)
                    if "parametrizations" in inner:
                        self.parametrized.append((path, module))
                    below.append((path + "." if path else "", iter(inner.items())))
                    break
            else:
                below.pop()
        self.kinds: list[type[Module]] = [type(module) for _, module in self.modules]

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that a module registers, as often as it does, without asking for their names."""
        return [place.tensor for place in self._found]

    @property
    def places(self) -> list[Place]:
        """Every tensor under every one of its state-dict names, in state-dict order.

        Buffers that no state dict holds come with `persistent=False`, after the persistent tensors of their module.
        """
        return self._named[0]

    @property
    def altered(self) -> list[str]:
        """Names under which the model's own `state_dict` gives something of another shape, type or order than it holds."""
        return self._named[1]

    @cached_property
    def _named(self) -> tuple[list[Place], list[str]]:
        """The places under their names, and the names of what `state_dict` alters; what it gives isn't kept."""
        if not _renames(self):
            return self._found, []
        state = _state_of(self.model)
        altered = [place.name for place in self._found if _is_altered(place.tensor, state.get(place.name))]
        return _renamed(state, self._found), altered

    def held(self) -> dict[str, Tensor]:
        """Return what this process holds under each name at present; names that lead nowhere any more are left out."""
        found: dict[str, Tensor] = {}
        for name, _, module, attr, _, is_buffer, _ in self.places:
            home = module._buffers if is_buffer else module._parameters  # noqa: SLF001  # getattr may compute
            try:
                tensor = home[attr]  # what a scripted module has lacks get()
            except KeyError:
                continue
            if tensor is not None:
                found[name] = tensor
        if spread_among(list(found.values())):
            return {name: here(tensor) for name, tensor in found.items()}
        return found

    def _visit(self, path: str, module: Module) -> None:
        """Take in one module: the tensors that it registers, and whether it has hooks."""
        self.modules.append((path, module))
        parameters, buffers = module._parameters, module._buffers  # noqa: SLF001
        if parameters or buffers:  # most of the others only hold modules
            prefix = path + "." if path else ""
            found = self._found
            for attr, tensor in parameters.items():
                if tensor is not None:
                    found.append(_place(Place, (prefix + attr, path, module, attr, tensor, False, True)))
            if buffers:
                _add_buffers(found, path, module)
        if (
            module._state_dict_hooks  # noqa: SLF001
            or module._state_dict_pre_hooks  # noqa: SLF001
            or module._load_state_dict_pre_hooks  # noqa: SLF001
            or module._load_state_dict_post_hooks  # noqa: SLF001
        ):
            self.hooked.append((path, module))


_place = tuple.__new__  # as Place(...) does, sooner


def _add_buffers(found: list[Place], path: str, module: Module) -> None:
    prefix = path + "." if path else ""
    hidden = module._non_persistent_buffers_set  # noqa: SLF001
    held = [(attr, buffer) for attr, buffer in module._buffers.items() if buffer is not None]  # noqa: SLF001
    found += [Place(prefix + attr, path, module, attr, t, True, True) for attr, t in held if attr not in hidden]
    found += [Place(prefix + attr, path, module, attr, t, True, False) for attr, t in held if attr in hidden]


def _expect_end(path: str) -> None:
    """Raise UsageError where a path is so long that it must go round in circles."""
    if len(path) > LONGEST:
        raise UsageError(
            f"the modules of the model never end ({printable(path, 60)}): one is registered inside itself; take it out"
        )


def is_module(model: object) -> TypeGuard[Module]:
    """Return whether `model` is a torch module by its looks, and no class of them."""
    return hasattr(model, "named_modules") and not isinstance(model, type)


def walk_of(model: Module | Walk) -> Walk:
    """Return the walk over a model, unless it is there already."""
    return model if isinstance(model, Walk) else Walk(model)


def is_spread(tensor: object) -> bool:
    """Return whether several processes hold the tensor together (a DTensor)."""
    return hasattr(type(tensor), "to_local") and hasattr(tensor, "device_mesh")  # a class is asked faster than a tensor


def spread_among(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return those that several processes hold together."""
    kinds = {kind for kind in set(map(type, tensors)) if hasattr(kind, "to_local")}  # a large model has few classes
    return [tensor for tensor in tensors if type(tensor) in kinds and is_spread(tensor)] if kinds else []


def here(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor: the local shard, sharing its memory; an ordinary tensor as it is."""
    if not is_spread(tensor):
        return tensor
    local: Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
    return local


def modules(model: Module) -> list[tuple[str, Module]]:
    """Return every module under every one of its dotted paths, as a walk has them."""
    return Walk(model).modules


def places(model: Module) -> list[Place]:
    """Return every tensor under every one of its state-dict names, as a walk has them."""
    return Walk(model).places


def _renames(walk: Walk) -> bool:
    """Return whether some module can give its tensors other names in the state dict than their dotted paths."""
    if any(module._state_dict_hooks or module._state_dict_pre_hooks for _, module in walk.hooked):  # noqa: SLF001
        return True
    return any(
        _defined_outside_torch(kind.state_dict) or _defined_outside_torch(kind._save_to_state_dict)  # noqa: SLF001
        for kind in set(walk.kinds)  # a large model has few classes
    )


def _defined_outside_torch(function: Callable[..., object]) -> bool:
    """Return whether a method overrides the one of `torch.nn.Module`."""
    return getattr(function, "__module__", "") != "torch.nn.modules.module"


def _is_altered(held: Tensor, given: Any) -> bool:
    """Return whether a tensor of a state dict is another form of the one that is held; a copy is taken for the same."""
    try:
        if given is None or given is held or held.is_meta or is_spread(held):
            return False
        if given.shape != held.shape or given.dtype != held.dtype:
            return True
        return bool(given.data_ptr() == held.data_ptr() and given.numel() and given.stride() != held.stride())
    except (AttributeError, *NO_MEMORY):  # no tensor, or an unusual one
        return False


def _renamed(state: Mapping[str, Any], found: list[Place]) -> list[Place]:
    """Return `found` under the names that the model's own `state_dict` gives the very same tensors.

    What it gives copies of keeps its path. A buffer that it leaves out is not persistent; a parameter is one all the same.
    """
    names: dict[Hashable, list[str]] = {}
    for name, value in state.items():
        for key in _marks(value):
            names.setdefault(key, []).append(name)
    taken: set[str] = set()
    out: list[Place] = []
    for place in found:
        own = [name for key in _marks(place.tensor) for name in names.get(key, ()) if name not in taken]
        copied = place.name in state and place.name not in taken
        if not own and not copied:
            out.append(place._replace(persistent=not place.is_buffer))
            continue
        name = place.name if place.name in own or not own else own[0]
        taken.add(name)
        out.append(place._replace(name=name, persistent=True))
    return out


def _state_of(model: Module) -> Mapping[str, Any]:
    """Return what the model's own `state_dict` gives; one that takes no arguments gives detached tensors.

    Raises:
        UsageError: it fails, or gives something else.
    """
    try:
        try:
            state: Any = model.state_dict(keep_vars=True)
        except TypeError:
            state = model.state_dict()
    except Exception as error:
        said = f"{type(error).__name__}: {printable(str(error), 200)}"
        raise UsageError(
            f"state_dict() of {type(model).__name__} fails, so its tensors have no names ({said})"
        ) from error
    if not isinstance(state, Mapping):
        raise UsageError(f"state_dict() of {type(model).__name__} gives {a_kind(state)}; a dictionary is needed")
    return state


def _marks(value: Any) -> Iterator[Hashable]:
    """Yield what tells a tensor from all others: first itself, then where it lies, for those that were detached."""
    yield id(value)
    if hasattr(value, "data_ptr") and (where := identity_of(value)) is not None:
        yield where
