"""Initial values for slots that a checkpoint does not fill, in a model that has none: by the model's own code.

The code runs on stand-ins of the modules, so nothing of the model is touched: the tensors in question are real there,
all others lie on meta at first, where initialising costs nothing and changes nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain, product
from typing import TYPE_CHECKING, Any

from torchgraft.applying.cells import Cell
from torchgraft.applying.construct import Constructor
from torchgraft.core.errors import PlanRefusedError, UninitialisedError
from torchgraft.core.names import around
from torchgraft.core.objections import Objection
from torchgraft.core.places import Walk, is_spread
from torchgraft.core.plan import Step

if TYPE_CHECKING:
    import torch
    from torch import nn


# What modules call the method that gives them initial values: torch, its Transformer parts, timm and others.
RESETS = (
    "reset_parameters",
    "_reset_parameters",
    "init_weights",
    "reset_buffers",
    "init_non_persistent_buffers",
    "_init_buffers",
)
# What ancestors call the method that initialises a module given to it (transformers and many that follow it).
INITS = ("_init_weights",)
# Some code asks a neighbour for its device: then all tensors of the module are real, if they are no more than this.
MAX_REAL = 32 << 20


def initialise(
    model: Walk, cells: Mapping[str, Cell], steps: Sequence[Step], constructor: Constructor | None = None
) -> tuple[str, ...]:
    """Give every staged cell that the writing `steps` do not fill whole its initial values; return their slots' names.

    Tried in this order: the code that made the model, where it is given; an ancestor's `_init_weights(module)`, the
    module's own `reset_parameters()` and its like, those of its ancestors, and for buffers the module's constructor, where
    all its arguments are at hand.

    Raises:
        UninitialisedError: the model's code gives no initial values to some slots without being built anew.
    """
    staged = {name: cell for name, cell in cells.items() if cell.staged}
    if not staged:
        return ()
    filled = {step.slot.name for step in steps if step.rows is None and not step.base}
    remaining = {name: cell for name, cell in staged.items() if name not in filled and cell.value.numel()}
    if not remaining:
        return ()
    spread = [cell for cell in remaining.values() if is_spread(cell.places[0].tensor)]
    if spread:
        raise PlanRefusedError([_spread(cell) for cell in spread])
    wanted = tuple(remaining)
    if constructor is not None:
        _by_constructor(constructor, remaining)
    by_path = dict(model.modules)
    for attempt in (_by_ancestors, _by_resets, _by_building):
        attempt(by_path, remaining)
    if remaining:
        raise UninitialisedError([_objection(cell) for cell in remaining.values()])
    return wanted


def _spread(cell: Cell) -> Objection:
    fact = (
        f"{cell.slot.name} is on the meta device and spread over processes, and the checkpoint does not fill it: no process "
        "has the whole of it to initialise"
    )
    remedy = "give the model memory first (to_empty, then its own initialisation)"
    return Objection("missing", fact, (cell.slot.name,), remedy)


def _objection(cell: Cell) -> Objection:
    slot = cell.slot
    owner = f"{slot.owner or 'the model'} ({slot.kind})"
    what = "buffer" if slot.is_buffer else "parameter"
    fact = (
        f"{what} {slot.name} {list(slot.spec.shape)} is on the meta device, the checkpoint does not fill it, and {owner} "
        "has no method that gives it initial values"
    )
    return Objection(
        "missing", fact, (slot.name,), "build the model on the CPU, or give that module reset_parameters()"
    )


def _by_constructor(constructor: Constructor, remaining: dict[str, Cell]) -> None:
    """Take the values that the code gives which made the model: it may go on where a module's own method ends.

    Raises:
        UninitialisedError: that code can't run with values for some parameters alone.
    """
    for name, made in constructor.values(remaining).items():
        cell = remaining[name]
        if made.shape == cell.value.shape:
            cell.value.copy_(made)
            del remaining[name]
    if left := [cell for name, cell in remaining.items() if constructor.knows(name)]:
        said = "is initialised by code that can't run while other parameters have no values"
        raise UninitialisedError([Objection("missing", f"{one.slot.name} {said}", (one.slot.name,)) for one in left])


def _by_ancestors(by_path: Mapping[str, nn.Module], remaining: dict[str, Cell]) -> None:
    """Let the nearest ancestor that initialises modules do so for each owner."""
    for path in dict.fromkeys(place.owner for cell in list(remaining.values()) for place in cell.places):
        for outer, name in product(around(path), INITS):
            method = getattr(by_path[outer], name, None)
            if callable(method):
                stand_in = StandIn(by_path[path], _tensors(remaining))
                _run(partial(method, stand_in.module), stand_in, remaining)


def _by_resets(by_path: Mapping[str, nn.Module], remaining: dict[str, Cell]) -> None:
    """Let each owner, then the modules above it, initialise all that lies below."""
    owners = {place.owner for cell in remaining.values() for place in cell.places}
    paths = {path for owner in owners for path in around(owner)}
    for path in sorted(paths, key=lambda p: (-_depth(p), p)):
        for others, name in product(("meta", "cpu"), RESETS):
            if not any(_below(place.owner, path) for cell in remaining.values() for place in cell.places):
                break
            module = by_path[path]
            if callable(getattr(module, name, None)) and (others == "meta" or _size(module) <= MAX_REAL):
                stand_in = StandIn(module, _tensors(remaining), others)
                _run(getattr(stand_in.module, name), stand_in, remaining)


def _size(module: nn.Module) -> int:
    """Return the bytes of all tensors below `module`."""
    return sum(t.numel() * t.element_size() for t in chain(module.parameters(), module.buffers()))


def _by_building(by_path: Mapping[str, nn.Module], remaining: dict[str, Cell]) -> None:
    """Build a second module of the same class and arguments, and take its buffers."""
    for path in dict.fromkeys(cell.slot.owner for cell in list(remaining.values()) if cell.slot.is_buffer):
        built = rebuilt(by_path[path])
        if built is None:
            continue
        for name, cell in list(remaining.items()):
            place = cell.places[0]
            made = built._buffers.get(place.attr) if place.owner == path and place.is_buffer else None  # noqa: SLF001
            if made is not None and made.shape == cell.value.shape and not made.is_meta:
                cell.value.copy_(made)
                del remaining[name]


def _run(call: Callable[[], object], stand_in: StandIn, remaining: dict[str, Cell]) -> None:
    """Run initialising code and take over what it has set; code that can't run on a stand-in has set nothing."""
    try:
        call()
    except Exception:  # noqa: BLE001  # the model's own code may raise anything: it is one attempt of several
        return
    for name, cell in list(remaining.items()):
        made = next((m for place in cell.places if (m := stand_in.result(place.tensor)) is not None), None)
        if made is not None and made.shape == cell.value.shape:
            cell.value.copy_(made)
            del remaining[name]


def _tensors(remaining: Mapping[str, Cell]) -> set[int]:
    return {id(place.tensor) for cell in remaining.values() for place in cell.places}


def _depth(path: str) -> int:
    return path.count(".") + 1 if path else 0


def _below(path: str, above: str) -> bool:
    return not above or path == above or path.startswith(above + ".")


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
        untouched = now is given and now._version == version and bool(marked.all())  # noqa: SLF001  # nothing public has it
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
        children = module._modules.items()  # noqa: SLF001  # with those that are None
        copy.__dict__["_modules"] = {name: None if child is None else self._copy(child) for name, child in children}
        copy.__dict__["_non_persistent_buffers_set"] = set(module._non_persistent_buffers_set)  # noqa: SLF001  # not public
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
        self._tensors[id(original)] = (made, made._version)  # noqa: SLF001  # as in `result`
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
