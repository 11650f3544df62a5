"""Old names that the model's own loading code knows: what its hooks would rename, learned without loading anything."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import is_
from typing import Any, NamedTuple

from torchgraft.core.formatting import listed
from torchgraft.core.places import Walk, walk_of
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.core.system.shield import Shield
from torchgraft.core.types import Module, ScalarType, Tensor
from torchgraft.core.values import same_values

_KEPT = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")
_SKIPPED = (*_KEPT, "_load_state_dict_pre_hooks")
_NOTHING = object()
_PLAIN = ("torch.nn.modules.module", "torch.nn.modules.batchnorm", "torch.nn.modules.instancenorm")


@dataclass(frozen=True, slots=True)
class Renames:
    """What the model's loading code does to the names of a checkpoint.

    `renames` maps old keys to new ones: the very same tensor under another name. `dropped` are keys that the code
    removes. `notes` say what can't be learned from names and shapes: values that are computed, and code that failed.
    """

    renames: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def rename_by_hooks(
    model: Module | Walk, specs: Mapping[str, TensorSpec], versions: Mapping[str, Any] | None = None
) -> Renames:
    """Return what the pre-hooks and overridden `_load_from_state_dict` of `model` make of the keys in `specs`.

    They run on tensors without memory, and the model shows them none of its own either, so no value can change; all
    attributes of its modules are put back afterwards, and what these hold was shown as a copy. `versions` are those of the
    checkpoint's state dict (its `_metadata`), by module path.
    """
    walk = walk_of(model)
    everywhere = walk.modules
    coded = {kind for kind in set(walk.kinds) if _has_code(kind)}  # a large model has few classes
    some = everywhere if coded else walk.hooked
    walked = [(path, m) for path, m in some if type(m) in coded or m._load_state_dict_pre_hooks]  # noqa: SLF001
    if not walked:
        return Renames()
    import torch

    ghosts = _Ghosts()
    state = ghosts.state_of(specs)
    given = {id(tensor): name for name, tensor in state.items()}
    keep = list(state.values())  # no identity may be used twice
    everything = {id(module): module for _, module in everywhere}.values()
    hooks = [(held, dict(held)) for _, module in walked if (held := module._load_state_dict_pre_hooks)]  # noqa: SLF001
    notes: list[str] = []
    with Shield() as shield, torch.no_grad():  # a signal must leave neither gradients off nor modules without values
        saved: list[_Saved] = []
        try:
            _hide_values(everything, saved, ghosts)
            for _, module in walked:
                _show_copies(module)
            for path, module in walked:
                _run(path, module, state, versions or {}, notes)
                shield.deliver()
            notes += _also_set(everywhere, saved)
        finally:
            _put_back(saved)
            for held, before in hooks:  # a hook that removes itself does so from the dict that its handle knows
                held.clear()
                held.update(before)
    found = _compare(state, given, notes)
    del keep
    return found


def _compare(state: Mapping[str, Any], given: Mapping[int, str], notes: list[str]) -> Renames:
    """Return what became of the given tensors."""
    renames: dict[str, str] = {}
    computed: list[str] = []
    seen: set[str] = set()
    for name, tensor in state.items():
        old = given.get(id(tensor))
        if old is None:
            computed.append(name)
            continue
        seen.add(old)
        if old != name and old not in state:
            renames.setdefault(old, name)
    if computed:
        more = f" and {len(computed) - 4} more" if len(computed) > 4 else ""
        notes.append(
            f"the model's loading code computes {', '.join(computed[:4])}{more} from the checkpoint; torchgraft takes "
            "the tensors as they are in the file"
        )
    changed = set(computed)
    dropped = tuple(name for name in given.values() if name not in seen and name not in changed)
    return Renames(renames, dropped, tuple(notes))


def _has_code(kind: type[Module]) -> bool:
    """Return whether loading into a module of this class runs code other than torch's own plain copying."""
    return kind._load_from_state_dict.__module__ not in _PLAIN  # noqa: SLF001


def _run(path: str, module: Module, state: dict[str, Any], versions: Mapping[str, Any], notes: list[str]) -> None:
    """Run the loading code of one module; code that fails changes nothing and is noted."""
    prefix = path + "." if path else ""
    before = dict(state)
    facts = dict(versions.get(path) or {})
    lists: tuple[list[str], list[str], list[str]] = ([], [], [])
    try:
        if not _has_code(type(module)):
            for hook in module._load_state_dict_pre_hooks.values():  # noqa: SLF001
                hook(state, prefix, facts, False, *lists)
        else:
            module._load_from_state_dict(state, prefix, facts, False, *lists)  # noqa: SLF001
    except Exception as error:  # noqa: BLE001  # the model's own code may raise anything; it is only asked for names
        state.clear()
        state.update(before)
        notes.append(
            f"the loading code of {path or 'the model'} ({type(module).__name__}) could not be followed: {error}"
        )


class _Saved(NamedTuple):
    """The attributes of a module, and what it shows in their place."""

    module: Module
    attributes: dict[str, Any]
    shown: dict[str, Any]


class _Ghosts:
    """Makes tensors without memory, each an object of its own; all of one shape and type from a first one, in less time."""

    def __init__(self) -> None:
        self._first: dict[tuple[Shape, ScalarType], Tensor] = {}

    def of(self, shape: Shape, dtype: ScalarType) -> Tensor:
        """Return one more tensor of that shape and type."""
        import torch

        first = self._first.get((shape, dtype))
        if first is None:
            first = self._first[shape, dtype] = torch.empty(shape, dtype=dtype, device="meta")
        return first.data

    def state_of(self, specs: Mapping[str, TensorSpec]) -> dict[str, Any]:
        """Return a state dict of such tensors, without extra state."""
        import torch

        return {
            name: self.of(spec.shape, getattr(torch, spec.dtype.label))
            for name, spec in specs.items()
            if not name.endswith("_extra_state")
        }

    def like(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the same kind."""
        import torch

        try:
            ghost = self.of(tensor.shape, tensor.dtype)
        except RuntimeError:  # lazy parameters have no shape
            return tensor
        return torch.nn.Parameter(ghost, requires_grad=False) if isinstance(tensor, torch.nn.Parameter) else ghost


def _hide_values(everything: Iterable[Module], saved: list[_Saved], ghosts: _Ghosts) -> None:
    """Let every module show meta tensors in place of its own; what to put back is added to `saved`."""
    for module in everything:
        own = module.__dict__
        attributes = dict(own)
        shown: dict[str, Any] = {}
        saved.append(_Saved(module, attributes, shown))
        for name in _KEPT:
            inner = attributes[name]
            own[name] = type(inner)(inner)
        for name in ("_parameters", "_buffers"):
            home = own[name]
            for attr, tensor in home.items():
                home[attr] = None if tensor is None else ghosts.like(tensor)
        shown.update(own)


def _show_copies(module: Module) -> None:
    """Let a module show copies of the lists, dicts and tensors that it keeps as attributes: its code may add to them."""
    own = module.__dict__
    own.update({name: aside(value) for name, value in own.items() if name not in _KEPT})


def _also_set(walked: Iterable[tuple[str, Module]], saved: Iterable[_Saved]) -> list[str]:
    """Return a note on attributes that the loading code has set or taken away: they are put back, so that is lost."""
    before = {id(one.module): one for one in saved}
    found: dict[str, list[str]] = {}
    for path, module in walked:
        _, old, shown = before[id(module)]
        new = module.__dict__
        if new.keys() == shown.keys() and all(map(is_, new.values(), shown.values())):
            continue  # as most modules, whose attributes no such code has touched
        changed = [name for name, value in new.items() if value is not old.get(name, _NOTHING)]
        gone = [name for name in old if name not in new]
        for name in gone + changed:
            if name not in _SKIPPED and not is_as_before(old.get(name, _NOTHING), new.get(name, _NOTHING)):
                found.setdefault(name, []).append(path or "the model")
    return [
        f"the model's loading code also sets {name} of {listed(paths, 3)}: torchgraft leaves it as it is; set it yourself if "
        "it follows from the weights"
        for name, paths in found.items()
    ]


def _put_back(saved: list[_Saved]) -> None:
    for module, attributes, _ in saved:
        module.__dict__.clear()
        module.__dict__.update(attributes)


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
        return (new.is_meta and (old.shape, old.dtype) == (new.shape, new.dtype)) or same_values(
            old.detach(), new.detach()
        )
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
