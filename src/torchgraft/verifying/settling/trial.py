"""What trials of a plan need: models and inputs, values written into a model for a while, and tensors read once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch

from torchgraft.core.places import places
from torchgraft.core.plan import Action, Feed, Step
from torchgraft.core.results.recording import Fingerprint
from torchgraft.core.specs import Source
from torchgraft.core.system.shield import Shield
from torchgraft.core.types import Module, Tensor
from torchgraft.core.values import put_rows
from torchgraft.ops import run_step
from torchgraft.verifying.tracing import Run, fingerprint

SAME = 1e-6  # greatest distance of the fingerprints of equal values, which are summed in another order


class TemporaryWeights:
    """A context in which tensors of a model may hold other values; at its end all hold what they held before.

    Signals wait meanwhile: one in the middle of putting back would leave a model that is half of each.
    """

    def __init__(self, model: Module, read: Callable[[Feed], Tensor]) -> None:
        self._tensors = {place.name: place.tensor for place in places(model)}
        self._read = read
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._shield = Shield()

    def __enter__(self) -> Self:
        self._shield.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with torch.no_grad():
                for tensor, old in self._before.values():
                    tensor.copy_(old)
        finally:
            self._shield.__exit__(kind, error, trace)

    def interruptible(self) -> AbstractContextManager[None]:
        """Let signals through, while the model runs."""
        return self._shield.opened()

    def fill(self, step: Step) -> None:
        """Write what a step says into its slot; a fresh one gets its old values back. Signals arrive here."""
        self._shield.deliver()
        tensor = self._tensors[step.slot.name]
        before = self._before.get(id(tensor))
        if before is None:
            before = self._before[id(tensor)] = (tensor, tensor.detach().clone())
        with torch.no_grad():
            if step.action is Action.FRESH:
                tensor.copy_(before[1])
                return
            base = [before[1].to("cpu")] if step.base else []  # adapters are added to what the model came with
            (value,) = run_step(step, self._read, base)
            if step.rows is not None:
                tensor.copy_(before[1])
            put_rows(tensor, step.rows, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a plan is tried with: the model and its inputs, runs of the source on the same, and its names in the file.

    Without inputs, the whole can't be run. `source_model` and `source_inputs` are those of the source, where its model is at
    hand: they are needed to prove parts.
    """

    model: Module
    inputs: Sequence[Any]
    source_runs: Sequence[Run]
    keys: Mapping[str, str]
    tolerance: float | None = None
    source_model: Module | None = None
    source_inputs: Sequence[Any] = ()


class CachedSource:
    """Tensors of a source, each read once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._read: dict[tuple[str, str], Tensor] = {}
        self._fingerprints: dict[tuple[str, str], Fingerprint | None] = {}

    def __call__(self, feed: Feed) -> Tensor:
        """Return what a feed names."""
        return self.value(feed.network, feed.key)

    def value(self, network: str, key: str) -> Tensor:
        """Return a tensor."""
        at = (network, key)
        if at not in self._read:
            self._read[at] = self._source.read(*at)
        return self._read[at]

    def holds(self, network: str, key: str, own: Tensor) -> bool:
        """Whether a tensor has the values of another."""
        value = self.value(network, key)
        return bool(value.shape == own.shape and (value.to(own.dtype) == own.detach().to("cpu")).all())

    def has_fingerprint(self, network: str, key: str, wanted: Fingerprint) -> bool:
        """Whether a tensor has a fingerprint."""
        at = (network, key)
        if at not in self._fingerprints:
            self._fingerprints[at] = fingerprint(self.value(*at))
        own = self._fingerprints[at]
        return own is not None and own.distance(wanted) <= SAME
