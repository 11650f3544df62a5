"""What carrying out a plan will take beside the model, told before anything is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torchgraft.applying.cells import address_range_of, are_disjoint, expect_writable
from torchgraft.applying.chunks import BLOCK, WASTE
from torchgraft.applying.memory import is_on_cuda, is_plain
from torchgraft.applying.moves import segments, transposed
from torchgraft.applying.transfers import LOOKED_AT
from torchgraft.applying.undo import KEPT
from torchgraft.applying.workers import MAX_THREADS
from torchgraft.core.places import Walk, here, walk_of
from torchgraft.core.plan import Action, Memory, Plan, Step
from torchgraft.core.specs import Source, TensorSpec

if TYPE_CHECKING:
    from torch import nn

THREADS_USE = min(os.cpu_count() or 1, MAX_THREADS) * (LOOKED_AT + WASTE + 2 * BLOCK)


def estimate_memory(plan: Plan, source: Source, model: nn.Module | Walk) -> Memory:
    """Return how much memory loading by `plan` takes at most, in this process.

    What is only moved takes a few mebibytes for each thread, pinned where it goes to a device. What is computed takes its
    inputs and two results of its size, and its old values, unless the model is on meta and has none. Where slots share memory
    all old values are kept.

    Raises:
        UsageError: a tensor of the model can't be written to.
    """
    found = {place.name: place.tensor for place in walk_of(model).places}
    specs = {network.path: network.specs for network in source.networks}
    expect_writable((found[step.slot.name], step) for step in plan.steps)
    tensors = {step.slot.name: here(found[step.slot.name]) for step in plan.steps}
    plain = {name for name, tensor in tensors.items() if tensor.is_meta or is_plain(tensor)}
    on_device = {name for name, tensor in tensors.items() if is_on_cuda(tensor)}
    overlapping = not are_disjoint([address_range_of(tensor) for tensor in tensors.values() if not tensor.is_meta])
    moved = kept = working = 0
    for step in plan.steps:
        if step.action is Action.FRESH:
            continue
        name, spec = step.slot.name, step.slot.spec
        read = sum(specs[feed.network][feed.key].nbytes for feed in step.feeds)
        old = 0 if tensors[name].is_meta else spec.nbytes
        fits = name in plain or (name in on_device and _is_of_type(step, specs))
        straight = fits and tensors[name].is_contiguous() and _is_moved(step, source, specs, here=name in plain)
        if straight and not overlapping:
            moved += old
            working = max(working, THREADS_USE)
        else:
            kept += old
            working = max(working, read + 2 * spec.nbytes)
    return Memory(kept=kept + min(moved, KEPT), working=working)


def _is_of_type(step: Step, specs: Mapping[str, Mapping[str, TensorSpec]]) -> bool:
    """Return whether what a step reads has the type of its slot."""
    return all(specs[feed.network][feed.key].dtype is step.slot.spec.dtype for feed in step.feeds)


def _is_moved(step: Step, source: Source, specs: Mapping[str, Mapping[str, TensorSpec]], *, here: bool) -> bool:
    """Return whether a step only moves values, or turns a matrix that comes to lie `here`."""
    return segments(step, source, specs) is not None or (here and transposed(step, source, specs) is not None)
