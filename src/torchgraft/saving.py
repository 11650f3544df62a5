"""What is written: tensors, models, checkpoints converted, plans kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.objects import a_kind
from torchgraft.core.plan import Plan
from torchgraft.core.results.report import Saved
from torchgraft.core.specs import Network, Source
from torchgraft.matching import choose, listed_networks, require_weights
from torchgraft.reading import open_checkpoint
from torchgraft.reporting import data_of, renderers

if TYPE_CHECKING:
    import torch
    from torch import nn


def convert(  # noqa: PLR0913  # each is one wish
    checkpoint: object,
    path: str | os.PathLike[str],
    *,
    dtype: object = None,
    shard_size: str | int | None = None,
    prefer: str | None = None,
    file_format: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Saved:
    """Write what `checkpoint` holds to `path`, in the format of its ending: whole files or none, and nothing lost unsaid.

    Values go through in pieces of a few megabytes, read and written by a few threads. Element types stay, tied names
    stay tied, plain facts and state-dict versions stay. A SHA-256 that the source states is compared on the way.

    Args:
        checkpoint: as for load().
        path: ends with .safetensors, or .pt, .pth, .bin, .ckpt for torch's own format.
        dtype: what real floating-point tensors are rounded to: float16, bfloat16, float32 or float64.
        shard_size: bytes, or "5GB": several files of at most that many, and `path` + ".index.json". An interrupted
            run goes on where it was when the same call is made again and the source is unchanged.
        prefer: which of several networks; the others are left out then, and named.
        file_format: "safetensors" or "torch zip", whatever the ending, or "dcp": a folder for torch.distributed.checkpoint.
        progress: called with bytes done and bytes in all.

    Raises:
        UsageError: an argument makes no sense, or the format can't hold something; or there is more than one network.
        CheckpointError: the source can't be read.
        WriteError: a file could not be written; what stood there is intact.
    """
    from torchgraft.writing import content_of, dtype_of, format_of, run_name, write

    kind, cast = file_format or format_of(path), dtype_of(dtype) if dtype is not None else None
    with open_checkpoint(checkpoint) as source:
        _refuse_own_input(path, source, in_shards=shard_size is not None)
        network, left = _network_to_write(source, prefer)
        made = content_of(source, network, kind, cast)
        run = run_name(source, made.content, kind, shard_size)
        saved = write(path, kind, made.content, shard_size=shard_size, run=run, progress=progress)
    return replace(
        saved,
        origin=source.origin,
        network=network.path,
        cast=made.cast,
        left_out=tuple(left),
        notes=(*made.remarks(), *saved.notes),
        renderers=renderers("saved"),
    )


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
    The format follows the ending unless `file_format` names it; "dcp" is a folder for torch.distributed.checkpoint. With `shard_size` (bytes, or "5GB") there are several
    files and, written last, `path` + ".index.json". `progress` hears bytes done and in all. Extra memory: one tensor for each thread, and only where its
    values don't lie in order on the CPU.

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
        CheckpointError: there is no such file, or it can't be read.
        UsageError: it holds no plan, or a broken one.
    """
    from torchgraft import planfile

    return replace(planfile.read_plan(path), renderers=renderers("plan"))


def _network_to_write(source: Source, prefer: str | None) -> tuple[Network, list[str]]:
    """Return the network that is meant, and the paths of those that hold more: none, unless the caller said which."""
    from torchgraft.writing import uncovered

    require_weights(source.networks, source.origin)
    if prefer is not None:
        chosen = choose(source.networks, (), prefer).network
        return chosen, uncovered(source, chosen)
    whole = next((network for network in source.networks if not uncovered(source, network)), None)
    if whole is None:
        held = listed_networks(source.networks)
        likely = choose(source.networks, (), None)
        example = "" if likely.rivals else f", e.g. prefer={likely.network.path!r}"
        raise UsageError(
            f"{printable(source.origin)} holds several networks, and a file takes one ({held}): choose it with prefer={example}"
        )
    return whole, []


def _refuse_own_input(path: str | os.PathLike[str], source: Source, *, in_shards: bool) -> None:
    from torchgraft.writing import may_replace

    for place in (os.fsdecode(path), f"{os.fsdecode(path)}.index.json"):
        if os.path.realpath(place) in source.stamps:
            raise UsageError(f"{printable(place)} is the checkpoint that is read: choose another path")
    hit = next((read for read in source.stamps if in_shards and may_replace(os.fsdecode(path), read)), None)
    if hit is not None:
        shown = printable(os.fsdecode(path))
        raise UsageError(f"{printable(hit)} is read, and may be replaced by shards of {shown}: choose another path")
