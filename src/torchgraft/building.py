"""A model from its constructor and a checkpoint, without initialising what the checkpoint overwrites anyway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Unpack

from torchgraft.api import load, load_made
from torchgraft.core.errors import UninitialisedError, UsageError
from torchgraft.core.objects import a_kind
from torchgraft.core.places import is_module
from torchgraft.core.results.report import Report

if TYPE_CHECKING:
    import torch
    from torch import nn

    from torchgraft.arguments import Asked


def build(
    factory: Callable[[], nn.Module],
    checkpoint: object,
    *,
    device: str | torch.device | None = None,
    mmap: bool = False,
    prefault: bool = False,
    **asked: Unpack[Asked],
) -> tuple[nn.Module, Report]:
    """Return the model that `factory` makes, filled with the weights of `checkpoint`, and the report of the load.

    The model is made with its parameters on the meta device, where they have no memory and initialising them costs
    nothing; then memory is taken, the checkpoint is read straight into it, and only what stays fresh is initialised: by
    `factory`, called again with values for these parameters alone. Where that can't be done the model is made the
    ordinary way and loaded; a note says why.

    Args:
        factory: a function without arguments, or a class of modules that needs none. It may be called three times.
        checkpoint: as for load().
        device: where the model is to live; the CPU unless given.
        mmap: as for load(); a model that must be made the ordinary way has memory of its own then.
        prefault: as for load().
        **asked: as for load().

    Raises:
        UsageError: the factory returns no module, or an argument makes no sense.
        CheckpointError, PlanRefusedError, ApplyError: as for load().
    """
    from torchgraft.applying import build_on_meta, build_with_values

    if is_module(factory) or not callable(factory):
        what = "give a function or class that makes the model; load() fills one that is there"
        raise UsageError(f"factory is {a_kind(factory)}: {what}")
    made, reason = build_on_meta(factory)
    if made is not None:
        model, constructor = made
        placed = {"device": device, "mmap": mmap, "prefault": prefault}
        try:
            report = load_made(model, checkpoint, asked, placed=placed, constructor=constructor)
        except UninitialisedError as error:
            reason = error.objections[0].text.partition(";")[0]
        else:
            if device is not None:
                model.to(device)  # buffers, which were made with their values
            return model, report
    model = build_with_values(factory, device)
    report = load(model, checkpoint, **asked)
    note = f"the model was made with all its values first{', and nothing is mapped' if mmap else ''}: {reason}"
    return model, replace(report, plan=replace(report.plan, notes=(*report.plan.notes, note)))
