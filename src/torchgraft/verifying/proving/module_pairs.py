"""Modules of the target and of the source that hold the same tensors, and inputs to run both on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn

from torchgraft.core.places import modules
from torchgraft.core.plan import Step
from torchgraft.verifying.guessing import forward_parameters, guessed_inputs
from torchgraft.verifying.tracing.capture import arguments_of, as_call, runs


class Pair(NamedTuple):
    """A module of the target, one of the source, and the slots that come from it."""

    module: str
    source_module: str
    slots: tuple[str, ...]


def module_pairs(
    models: tuple[nn.Module, nn.Module], steps: Mapping[str, Step], keys: Mapping[str, str]
) -> Iterator[Pair]:
    """Yield modules of the target with the module of the source that all tensors of these steps in it come from, the largest first.

    `models` are (target, source). Modules without a forward method of their own are left out.
    """
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for name, key in keys.items():
        homes[key].append(name)
    theirs = dict(modules(models[1]))
    found = []
    for path, module in modules(models[0]):
        head = f"{path}." if path else ""
        slots = tuple(n for n, s in steps.items() if any(a.startswith(head) for a in s.slot.names))
        names = [home for n in slots for feed in steps[n].feeds for home in homes.get(feed.key, ())[:1]]
        if not slots or not names or not _runs_at_all(module):
            continue
        at = next((at for at in _upwards(_common(names)) if _runs_at_all(theirs.get(at))), None)
        if at is not None and (path or at):
            found.append(Pair(path, at, slots))
    yield from sorted(found, key=lambda pair: -len(pair.slots))


def inputs_of_pair(
    origin: nn.Module, theirs: nn.Module, mine: nn.Module, given: Sequence[Any]
) -> Iterator[tuple[Any, Any]]:
    """Yield inputs of two modules that hold the same: what the source's was called with in its run; else guesses."""
    known = False
    for one in given:
        arguments = ((one,), {}) if theirs is origin else arguments_of(origin, one, theirs)
        if arguments is None:
            continue
        source = one if theirs is origin else as_call(arguments)
        for form in _as_taken(mine, source, arguments):
            if runs(mine, form):
                known = True
                yield source, form
    if not known:
        yield from guessed_inputs(theirs, mine)


def _as_taken(module: nn.Module, same: Any, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Iterator[Any]:
    """Yield ways in which a module may take the arguments of another."""
    yield same
    args, kwargs = arguments
    known = forward_parameters(module)
    both = {name: value for name, value in kwargs.items() if name in known}
    if both != kwargs:
        yield as_call((args, both))
    main = next((one for one in (*args, *kwargs.values()) if hasattr(one, "dtype")), None)
    if main is not None:
        yield as_call(((main,), {}))


def _runs_at_all(module: nn.Module | None) -> bool:
    """Whether a module has a forward method of its own: lists and dictionaries of modules have none."""
    if module is None or getattr(type(module), "forward", None) is nn.Module.forward:
        return False
    return hasattr(module, "forward")  # a list that torch.jit.load() returned has none


def _common(names: Sequence[str]) -> str:
    """Return the dotted path of the innermost module that holds all these tensors."""
    split = [name.split(".")[:-1] for name in names]
    common = []
    for segments in zip(*split, strict=False):
        if len(set(segments)) > 1:
            break
        common.append(segments[0])
    return ".".join(common)


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and those of the modules around it."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""
