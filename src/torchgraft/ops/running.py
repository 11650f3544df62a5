"""Ops one after the other, with the same bits wherever that is called from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import reduce

from torchgraft.core.plan import Feed, Op, Step
from torchgraft.core.results.conversion import Output
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor


def run_ops(ops: Sequence[Op], values: Iterable[Tensor]) -> list[Tensor]:
    """Return what `ops` make of `values`: the first takes all of them, each further one what the one before it gave."""
    made = list(values)
    if ops:
        with _without_autocast(made):
            for op in ops:
                made = [op.run(made)]
    return made


def run_step(step: Step | Output, read: Callable[[Feed], Tensor], base: Iterable[Tensor] = ()) -> list[Tensor]:
    """Return what the ops of `step` make of `base` and of its feeds, each read and taken through ops of its own."""
    values = list(base)
    for feed in step.feeds:
        values += run_ops(feed.ops, [read(feed)])
    return run_ops(step.ops, values)


def step_specs(
    step: Step | Output, spec_of: Callable[[Feed], TensorSpec], base: Iterable[TensorSpec] = ()
) -> list[TensorSpec]:
    """Return the specs of what `run_step` would return: one where there are ops, else those of base and feeds.

    Raises:
        UsageError: an op does not take what it gets.
    """
    fed = (reduce(lambda spec, op: op.out_spec([spec]), feed.ops, spec_of(feed)) for feed in step.feeds)
    specs = [*base, *fed]
    return reduce(lambda found, op: [op.out_spec(found)], step.ops, specs)


def _without_autocast(values: Iterable[Tensor]) -> ExitStack:
    """Return a context without autocast, which would round matrix products to 16 bits, and refuses to join float64."""
    import torch

    stack = ExitStack()
    for kind in sorted({"cpu", *(value.device.type for value in values)}):
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            stack.enter_context(torch.autocast(kind, enabled=False))
    return stack
