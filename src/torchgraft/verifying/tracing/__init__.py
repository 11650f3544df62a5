"""Runs models and records what they do. Needs torch, and is imported only when something is to be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torchgraft.core.errors import UsageError
from torchgraft.core.places import places
from torchgraft.core.results.recording import Recording
from torchgraft.core.system.shield import Shield
from torchgraft.core.types import Module, Tensor
from torchgraft.verifying.tracing.prints import fingerprint
from torchgraft.verifying.tracing.recorder import Call, Recorder, Whereabouts
from torchgraft.verifying.tracing.restore import call, named_tensors, untouched

__all__ = ["Call", "Recorder", "Run", "fingerprint", "record_run"]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a model: what it returned, by name, and what it did."""

    outputs: Mapping[str, Tensor]
    recording: Recording


def record_run(model: Module, given: Any, *, evaluating: bool = True, kind: Callable[..., Recorder] = Recorder) -> Run:
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
    where = Whereabouts(model)
    outputs: dict[str, Tensor] = {}
    failure = ""
    recorder = kind(where, names)
    with Shield() as shield, untouched(model, evaluating=evaluating) as training:
        with where.followed(), recorder, shield.opened():
            try:
                outputs = named_tensors(call(model, given))
            except Exception as error:  # noqa: BLE001  # the model's own code may raise anything; it is told, not hidden
                failure = f"{type(error).__name__}: {error}"
        recording = recorder.recording(list(outputs.values()), training, failure)
    return Run(outputs, recording)
