"""Runs a model and records what it does; afterwards modes, buffers, random state and hooks are as before.

Needs torch, and is imported only when something is to be run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map

from torchgraft.core.errors import UsageError
from torchgraft.core.places import modules, places
from torchgraft.core.results.recording import Recording
from torchgraft.core.system.random_state import seeded
from torchgraft.core.system.shield import Shield
from torchgraft.core.types import Module, Tensor
from torchgraft.core.values import comparable
from torchgraft.verifying.tracing.fingerprints import fingerprint, ordered_fingerprint
from torchgraft.verifying.tracing.recorder import Call, ModuleTracker, Recorder

__all__ = [
    "Call", "Recorder", "Run", "call", "fingerprint", "named_tensors", "ordered_fingerprint", "record_run", "untouched",
]  # fmt: skip


SEED = 0
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a model: what it returned, by name, and what it did."""

    outputs: Mapping[str, Tensor]
    recording: Recording


def record_run(model: Module, given: Any, *, eval_mode: bool = True, kind: Callable[..., Recorder] = Recorder) -> Run:
    """Run `model` on one input and record every operation; the model is afterwards as it was before.

    A model that raises leaves the recording of what it did until then, with `failure`. `kind` makes the recorder.
    Signals arrive while the model's code runs, and wait while it is prepared and put back.

    Raises:
        UsageError: a tensor of the model has no values (meta).
    """
    found = places(model)
    if empty := next((place.name for place in found if place.tensor.is_meta), None):
        raise UsageError(f"{empty} has no values (meta device): a model can only be run once it is filled")
    names: dict[int, str] = {}
    for place in found:
        names.setdefault(id(place.tensor), place.name)
    tracker = ModuleTracker(model)
    outputs: dict[str, Tensor] = {}
    failure = ""
    recorder = kind(tracker, names)
    with untouched(model, eval_mode=eval_mode) as shield:
        with tracker.tracking(), recorder, shield.opened():
            try:
                outputs = named_tensors(call(model, given))
            except Exception as error:  # noqa: BLE001  # the model's own code may raise anything; it is recorded
                failure = f"{type(error).__name__}: {error}{_hint(error)}"
        recording = recorder.recording(list(outputs.values()), failure)
    return Run(outputs, recording)


def _hint(error: Exception) -> str:
    """Return what lets a model run that takes gradients itself, as those do that give forces."""
    if "does not require grad" not in str(error):
        return ""
    return "; models run without gradients: give callables as inputs that run the model within torch.enable_grad()"


@contextmanager
def untouched(model: Module, *, eval_mode: bool) -> Iterator[Shield]:
    """Prepare `model` for one run without gradients, and put everything back afterwards.

    With `eval_mode` all modules run in evaluation mode. Random numbers are drawn from the same seed each time. Signals are
    held back, unless the shield that is given is opened. Runs in several threads wait for each other: random states and
    settings of torch are the process's.
    """
    with _ONE_AT_A_TIME, Shield() as shield, ExitStack() as stack:
        modes = [(module, module.training) for module in {id(module): module for _, module in modules(model)}.values()]
        buffers = [(module, dict(module._buffers)) for module, _ in modes if module._buffers]  # noqa: SLF001
        kept = {id(b): (b, b.detach().clone()) for _, named in buffers for b in named.values() if b is not None}
        stack.enter_context(seeded(SEED))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_attention_fast_path_off())
        try:
            if eval_mode:
                for module, _ in modes:
                    module.training = False
            yield shield
        finally:
            for module, mode in modes:
                module.training = mode
            for module, named in buffers:
                _put_back(module._buffers, named)  # noqa: SLF001
            for buffer, old in kept.values():
                if buffer.shape != old.shape:
                    buffer.data = old
                elif not _equal(buffer, old):
                    buffer.copy_(old)


def _put_back(buffers: MutableMapping[str, Tensor | None], old: Mapping[str, Tensor | None]) -> None:
    """Let a module have the buffers that it had; one that torch.jit.load() returned has no others, and can't be cleared."""
    now = dict(buffers)
    if list(now) != list(old):
        buffers.clear()
        buffers.update(old)
        return
    for name, buffer in old.items():
        if now[name] is not buffer:
            buffers[name] = buffer


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return whether values are equal; torch compares no sparse tensors."""
    if torch.strided not in (one.layout, other.layout):
        one, other = one.to_dense(), other.to_dense()
    return torch.equal(comparable(one), comparable(other))


@contextmanager
def _attention_fast_path_off() -> Iterator[None]:
    """Let attention layers run as they are written: their fast path would be a single operation, q, k and v unseen."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def call(model: Module, given: Any) -> Any:
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


def named_tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """Return the tensors in an output by name: `logits`, `0`, `hidden_states.3`; a single tensor is called `output`."""
    if isinstance(value, torch.Tensor):
        return {name or "output": value}
    found: dict[str, Tensor] = {}
    for key, item in _entries(value):
        found |= named_tensors(item, f"{name}.{key}" if name else str(key))
    return found


def _entries(value: Any) -> Iterable[tuple[object, Any]]:
    """Return the entries of a mapping, the items of a list or the fields of a dataclass, each with its name."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, (list, tuple)):
        return enumerate(value)
    if is_dataclass(value) and not isinstance(value, type):
        return ((one.name, getattr(value, one.name)) for one in fields(value))
    return ()
