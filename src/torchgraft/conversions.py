"""Checkpoints converted: written in another format, or through a conversion that was learned, or that turns a plan round."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.objects import a_kind
from torchgraft.core.plan import Plan
from torchgraft.core.results.report import Report, Saved
from torchgraft.core.specs import Network, Source, TensorSpec
from torchgraft.core.system.fast_objects import collector_paused
from torchgraft.matching import choose, listed_networks, require_weights
from torchgraft.reading import open_checkpoint
from torchgraft.reporting import renderers
from torchgraft.request import learned_of
from torchgraft.saving import read_plan

if TYPE_CHECKING:
    import torch

    from torchgraft.core.shown import Renderers
    from torchgraft.learning import Learned


def convert(  # noqa: PLR0913  # each is one wish
    checkpoint: object,
    path: str | os.PathLike[str],
    *,
    dtype: object = None,
    shard_size: str | int | None = None,
    prefer: str | None = None,
    file_format: str | None = None,
    learned: Learned | str | os.PathLike[str] | None = None,
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
        prefer: which of several networks; the others are left out and named, as is an optimizer's state without it.
        file_format: "safetensors" or "torch zip", whatever the ending, or "dcp": a folder for torch.distributed.checkpoint.
        learned: a conversion that the tensors go through: what learn() or inverse() returned, or the file it was saved to.
        progress: called with bytes done and bytes in all.

    Raises:
        UsageError: an argument makes no sense, or the format can't hold something; or several networks hold weights.
        CheckpointError: the source can't be read.
        WriteError: a file could not be written; what stood there is intact.
    """
    from torchgraft.writing import content_of, dtype_of, format_of, run_name, write

    kind, cast = file_format or format_of(path), dtype_of(dtype) if dtype is not None else None
    conversion = learned_of(learned)
    with open_checkpoint(checkpoint) as opened:
        _refuse_own_input(path, opened, in_shards=shard_size is not None)
        network, left = _network_to_write(opened, prefer)
        source = conversion.opened(opened, network.path) if conversion else opened
        made = content_of(source, source.networks[0] if conversion else network, kind, cast)
        run = run_name(source, made.content, kind, shard_size, network.path, _as_text(conversion))
        saved = write(path, kind, made.content, shard_size=shard_size, run=run, progress=progress)
    return replace(
        saved,
        origin=source.origin,
        network=network.path,
        cast=made.cast,
        left_out=tuple(left),
        notes=(*(source.warnings if conversion else ()), *made.remarks(), *saved.notes),
        renderers=renderers("saved"),
    )


def learn(convert: Callable[[dict[str, torch.Tensor]], Any], source: object, *, prefer: str | None = None) -> Learned:
    """Return what a conversion function does to a state dict, as a plan of renames, cuts, permutations and joins.

    The function is run a few times on tensors whose elements say where they come from, then on random values, on which
    the learned plan must give the same to the last bit. What is no move of data is in `computed`, with its sources.

    Args:
        convert: gets a dictionary of tensors, and returns one (or a module), or changes the one that it was given.
        source: the names, shapes and types to convert: a checkpoint, a module, or a dictionary name -> TensorSpec.
        prefer: which of several networks of the checkpoint.

    Raises:
        UsageError: the function fails, or gives no state dict.
        CheckpointError: the checkpoint can't be read.
    """
    from torchgraft import learning

    shown = _conversion_renderers()
    if isinstance(source, dict) and source and all(isinstance(spec, TensorSpec) for spec in source.values()):
        return learning.learn(convert, source, shown)
    with open_checkpoint(source) as opened:
        require_weights(opened.networks, opened.origin)
        specs = choose(opened.networks, (), prefer).network.specs
    return learning.learn(convert, specs, shown)


def inverse(plan: Plan | Report | str | os.PathLike[str], *, rest: bool = False) -> Learned:
    """Return the conversion that leads back: from the model that `plan` fills to the names and shapes of its checkpoint.

    It is found op by op, from names and shapes alone: `convert(..., learned=inverse(report))` writes what was fine-tuned as
    the checkpoint's own library reads it, and `.convert(model.state_dict())` gives it as a dictionary. Element types are
    the model's. Tensors of the checkpoint that the model can't give back are in `absent`, each with the reason: those that
    were not used, or resampled, or went to several places of the model that may differ by now. What the model has beside
    is in `dropped`.

    Args:
        plan: what plan() returned, the report of load(), or the path of a plan that was kept in a file.
        rest: give what the model has beside as well, under its own names: added layers, a head for other classes. What has
            the name of a tensor that is given back stays out.

    Raises:
        UsageError: it is no plan, or one that joins several networks, such as the files of ranks.
        CheckpointError: there is no such file.
    """
    from torchgraft import learning

    made = plan.plan if isinstance(plan, Report) else plan
    if isinstance(made, (str, os.PathLike)):
        made = read_plan(made)
    if not isinstance(made, Plan):
        raise UsageError(f"plan is {a_kind(plan)}: give a plan, the report of a load, or the path of a kept plan")
    with collector_paused():
        return learning.inverse_of(made, _conversion_renderers(), rest=rest)


def _as_text(conversion: Learned | None) -> str:
    """Return what tells a conversion from all others: shards of two must not be mixed."""
    if conversion is None:
        return ""
    from torchgraft.learning import to_plain

    return json.dumps(to_plain(conversion))


def _conversion_renderers() -> Renderers:
    from torchgraft import learning

    return replace(renderers("conversion"), to_dict=learning.to_plain)


def _network_to_write(source: Source, prefer: str | None) -> tuple[Network, list[str]]:
    """Return the network that is meant, and the paths of those that hold more.

    These are no networks of weights, such as an optimizer's state, unless the caller said which is meant.
    """
    from torchgraft.writing import uncovered

    require_weights(source.networks, source.origin)
    if prefer is not None:
        chosen = choose(source.networks, (), prefer).network
        return chosen, uncovered(source, chosen)
    whole = next((network for network in source.networks if not uncovered(source, network)), None)
    if whole is not None:
        return whole, []
    likely = choose(source.networks, (), None)
    left = uncovered(source, likely.network)
    if {network.role for network in source.networks if network.path in left} <= {"optimizer", "other"}:
        return likely.network, left
    held = listed_networks(source.networks)
    example = "" if likely.rivals else f", e.g. prefer={likely.network.path!r}"
    raise UsageError(
        f"{printable(source.origin)} holds several networks, and a file takes one ({held}): choose it with prefer={example}"
    )


def _refuse_own_input(path: str | os.PathLike[str], source: Source, *, in_shards: bool) -> None:
    from torchgraft.writing import may_replace

    for place in (os.fsdecode(path), f"{os.fsdecode(path)}.index.json"):
        if os.path.realpath(place) in source.stamps:
            raise UsageError(f"{printable(place)} is the checkpoint that is read: choose another path")
    hit = next((read for read in source.stamps if in_shards and may_replace(os.fsdecode(path), read)), None)
    if hit is not None:
        shown = printable(os.fsdecode(path))
        raise UsageError(f"{printable(hit)} is read, and may be replaced by shards of {shown}: choose another path")
