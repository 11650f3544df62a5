"""Modules of the target and of the source that hold the same tensors, and inputs to run both on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Any, NamedTuple

from torch import nn

from torchgraft.core.names import around
from torchgraft.core.places import modules
from torchgraft.core.plan import Step
from torchgraft.verifying.guessing import forward_parameters, guess_inputs
from torchgraft.verifying.tracing.capture import Arguments, as_call, call_arguments, can_run

# Of so many modules one run of the model shows the arguments: each takes memory for its own.
AT_ONCE = 16


class StandalonePair(NamedTuple):
    """Paths of a module of the target and one of the source, and the slots that come from it."""

    module: str
    source_module: str
    slots: tuple[str, ...]


def find_module_pairs(
    target: nn.Module, source: nn.Module, steps: Mapping[str, Step], keys: Mapping[str, str]
) -> list[StandalonePair]:
    """Return modules of the target with the module of the source that all tensors of these steps come from.

    The largest come first. `keys` maps names of the source to keys of the checkpoint. Modules without a forward method of
    their own are left out.
    """
    source_names: dict[str, str] = {}
    for name, key in keys.items():
        source_names.setdefault(key, name)
    source_modules = dict(modules(source))
    found = []
    for path, module in modules(target):
        prefix = f"{path}." if path else ""
        slots = tuple(n for n, s in steps.items() if any(alias.startswith(prefix) for alias in s.slot.names))
        names = [source_names[feed.key] for n in slots for feed in steps[n].feeds if feed.key in source_names]
        if not names or not _has_forward(module):
            continue
        source_path = next((at for at in around(_common_module(names)) if _has_forward(source_modules.get(at))), None)
        if source_path is not None and (path or source_path):
            found.append(StandalonePair(path, source_path, slots))
    return sorted(found, key=lambda pair: -len(pair.slots))


class Called:
    """What modules of a model are called with when it runs on inputs, found for several of them in one run."""

    def __init__(self, model: nn.Module, inputs: Sequence[Any], inside: Iterable[nn.Module]) -> None:
        self._model, self.inputs = model, inputs
        self._waiting = {id(module): module for module in inside if module is not model}
        self._known: dict[int, list[Arguments | None]] = {}

    def is_all(self, module: nn.Module) -> bool:
        """Whether a module is the model itself."""
        return module is self._model

    def arguments(self, module: nn.Module) -> list[Arguments | None]:
        """Return the arguments for each of the inputs, None where it isn't called; they aren't kept any longer."""
        if self.is_all(module):
            return [((given,), {}) for given in self.inputs]
        if id(module) not in self._known:
            self._waiting.pop(id(module), None)
            some = [module, *islice(self._waiting.values(), AT_ONCE - 1)]
            runs = [call_arguments(self._model, given, some) for given in self.inputs]
            for at, one in enumerate(some):
                self._waiting.pop(id(one), None)
                self._known[id(one)] = [run[at] for run in runs]
        return self._known.pop(id(module))


def inputs_for_pair(called: Called, source: nn.Module, target: nn.Module) -> Iterator[tuple[Any, Any]]:
    """Yield inputs of two modules that hold the same: what the source's was called with in its run; guesses where it wasn't."""
    found = called.arguments(source)
    for whole_input, arguments in zip(called.inputs, found, strict=True):
        if arguments is None:
            continue
        source_input = whole_input if called.is_all(source) else as_call(arguments)
        for target_input in _forms_for(target, source_input, arguments):
            if can_run(target, target_input):
                yield source_input, target_input
    if not any(found):
        yield from guess_inputs(source, target)


def _forms_for(module: nn.Module, same: Any, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Iterator[Any]:
    """Yield ways in which a module may take the arguments of another."""
    yield same
    args, kwargs = arguments
    accepted = forward_parameters(module)
    both = {name: value for name, value in kwargs.items() if name in accepted}
    if both != kwargs:
        yield as_call((args, both))
    main = next((one for one in (*args, *kwargs.values()) if hasattr(one, "dtype")), None)
    if main is not None:
        yield as_call(((main,), {}))


def _has_forward(module: nn.Module | None) -> bool:
    """Whether a module has a forward method of its own: lists and dictionaries of modules have none."""
    if module is None or getattr(type(module), "forward", None) is nn.Module.forward:
        return False
    return hasattr(module, "forward")  # a list that torch.jit.load() returned has none


def _common_module(names: Sequence[str]) -> str:
    """Return the dotted path of the innermost module that holds all these tensors."""
    paths = [name.split(".")[:-1] for name in names]
    return ".".join(segments[0] for segments in takewhile(lambda s: len(set(s)) == 1, zip(*paths, strict=False)))
