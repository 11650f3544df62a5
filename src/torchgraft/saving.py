"""What is written: tensors, models, and plans, which are read back here as well."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torchgraft.core.errors import UsageError
from torchgraft.core.objects import a_kind
from torchgraft.core.plan import Plan
from torchgraft.core.results.report import Saved
from torchgraft.reporting import data_of, renderers

if TYPE_CHECKING:
    import torch
    from torch import nn


def save(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    file_format: str | None = None,
    shard_size: str | int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Saved:
    """Write `tensors`, in their order, to `path`: the whole file or none.

    Names of one and the same memory are stored once; a safetensors file states the other names in its metadata, as
    safetensors' own `save_model` does. The file holds a SHA-256 of each tensor, which inspect(verify=True) compares.
    The format follows the ending unless `file_format` names it; "dcp" is a folder for torch.distributed.checkpoint. With
    `shard_size` (bytes, or "5GB") there are several files and, written last, `path` + ".index.json". `progress` hears bytes
    done and in all. Extra memory: one tensor for each thread, and only where its values don't lie in order on the CPU.

    Raises:
        UsageError: a name, value, size or ending that can't be written.
        WriteError: a file could not be written; what stood at its place is intact.
    """
    from torchgraft.writing import save as write_state

    if not isinstance(tensors, Mapping):
        raise UsageError(f"tensors is {a_kind(tensors)}: save takes the path first, then a dictionary of tensors")
    saved = write_state(path, tensors, metadata, file_format=file_format, shard_size=shard_size, progress=progress)
    return replace(saved, renderers=renderers("saved"))


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    metadata: Mapping[str, str] | None = None,
    *,
    file_format: str | None = None,
    shard_size: str | int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Saved:
    """Write the state dict of `model` to `path`; see `save`. Extra state that is no tensor goes into torch files only.

    Raises:
        UsageError: the model holds what the format can't.
        WriteError: a file could not be written; what stood at its place is intact.
    """
    if not hasattr(model, "state_dict"):
        raise UsageError(f"model is {a_kind(model)}: save_model takes the path first, then the model")
    state = model.state_dict()
    return save(path, state, metadata, file_format=file_format, shard_size=shard_size, progress=progress)


def save_plan(path: str | os.PathLike[str], plan: Plan) -> None:
    """Write a plan to a JSON file, whole or not at all; load(plan=path) does what it says, and read_plan() reads it.

    Raises:
        UsageError: `plan` is none.
        WriteError: the file could not be written; what stood at its place is intact.
    """
    from torchgraft.writing import write_bytes

    if not isinstance(plan, Plan):
        raise UsageError(f"plan is {a_kind(plan)}: save_plan takes the path first, then what plan() returned")
    write_bytes(path, (json.dumps(data_of("plan", plan), indent=1, allow_nan=False) + "\n").encode())


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Return the plan that save_plan(), or `torchgraft plan -o`, wrote. The file is data: nothing in it is run.

    Raises:
        CheckpointError: there is no such file (MissingFileError), or it can't be read.
        UsageError: it holds no plan, or a broken one.
    """
    from torchgraft import planfile

    return replace(planfile.read_plan(path), renderers=renderers("plan"))
