"""The one place where the stages meet: plan() is the first half of load(), so a plan can't promise what load won't do."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.formatting import listed
from torchgraft.core.objects import a_kind
from torchgraft.core.places import Walk, is_module
from torchgraft.core.plan import Plan
from torchgraft.core.results.diff import Diff
from torchgraft.core.results.inspection import Inspection, summarise
from torchgraft.core.results.report import Check, Cost, Report
from torchgraft.core.specs import Source, Target
from torchgraft.core.system.objects import collector_paused
from torchgraft.matching import choose, has_network, place_of
from torchgraft.planning import make_plan, target_of
from torchgraft.reading import apart_from, open_checkpoint
from torchgraft.reporting import renderers
from torchgraft.saving import read_plan
from torchgraft.spreading import Share, own_share, processes_of

if TYPE_CHECKING:
    from torch import nn

    from torchgraft.applying import Constructor
    from torchgraft.arguments import Asked
    from torchgraft.matching.select import Choice
    from torchgraft.request import Request


def inspect(
    checkpoint: object,
    *,
    prefer: str | None = None,
    verify: bool = False,
    statistics: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Return what a checkpoint holds: format, networks, names, shapes, types and the facts beside them.

    Reads no values, runs nothing of the file, and doesn't import torch for files. With `verify` every tensor of the
    chosen network is read, and compared with the SHA-256 that torchgraft writes beside tensors: see `verification`;
    `progress` hears bytes done and in all meanwhile.
    With `statistics` every tensor is read, too, and what is strange about values is told: see `statistics`; `progress`
    hears of that reading as well, counted anew.

    Raises:
        CheckpointError: the file can't be read.
        UsageError: `prefer` names no network of the file.
    """
    with collector_paused(), open_checkpoint(checkpoint) as source:
        choice = choose(source.networks, (), prefer)
        found = summarise(source, choice.network, choice.rivals, choice.note)
        if verify:
            from torchgraft.verifying import check_digests

            found = replace(found, verification=check_digests(source, choice.network, progress))
        if statistics:
            from torchgraft.verifying import find_suspicions

            found = replace(found, statistics=find_suspicions(source, choice.network, choice.network.specs, progress))
    return replace(found, renderers=renderers("inspection"))


def diff(
    old: object,
    new: object,
    *,
    values: bool = False,
    prefer: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Diff:
    """Return how two checkpoints (or a checkpoint and a model) differ: names, shapes, types and, on request, values.

    `prefer` says which of several networks is meant, on the sides that have it. While values are compared, `progress`
    hears bytes done and in all.

    Raises:
        CheckpointError: a file can't be read.
        UsageError: `prefer` names no network of either side.
    """
    with open_checkpoint(old) as first, open_checkpoint(new) as second:
        both = (first, second)
        named = [has_network(s.networks, prefer) for s in both]
        wanted = [prefer if is_named or not any(named) else None for is_named in named]
        sides = [(s, choose(s.networks, (), name)) for s, name in zip(both, wanted, strict=True)]
        left, right = ((source, choice.network) for source, choice in sides)
        from torchgraft import diffing

        found = diffing.compare_with_values(left, right, progress) if values else diffing.compare(left, right)
        notes = tuple(note for source, choice in sides if (note := _beside(source, choice, named=prefer is not None)))
    return replace(found, notes=notes, renderers=renderers("diff"))


def _beside(source: Source, choice: Choice, *, named: bool) -> str:
    """Return a remark on networks beside the one that was compared; nothing where there are none, or it was `named`."""
    from torchgraft.writing import uncovered

    origin = printable(source.origin)
    if choice.rivals:
        first, *others = (place_of(path) for path in (choice.network.path, *choice.rivals))
        return f"{origin} holds several networks that fit equally well: {first} was compared, not {', '.join(others)}; say which with prefer="
    others = [] if named else uncovered(source, choice.network)
    inner = [path for path in others if path and not f"{choice.network.path}/".startswith(f"{path}/")]
    left = [place_of(path) for path in inner or others]
    were = "was" if len(left) == 1 else "were"
    return f"{origin} also holds {listed(left, 4)}, which {were} not compared; say which with prefer=" if left else ""


def plan(model: object, checkpoint: object, **asked: Unpack[Asked]) -> Plan:
    """Return what load() would do, and touch nothing.

    `model` is an nn.Module (meta is fine), or a checkpoint whose names and shapes stand for one. `checkpoint` is a
    path (file or folder), an open file or io.BytesIO, a dict of tensors, an nn.Module or an opened source. Keyword arguments as for load().

    Raises:
        UsageError: an argument makes no sense.
        CheckpointError: the file can't be read.
    """
    from torchgraft.request import requested

    wanted = requested("plan", asked)
    with collector_paused(), _opened(checkpoint, wanted, model if wanted.tries else None) as source:
        seen = _walked(model)
        wanted = _with_origin(wanted, checkpoint)
        target = target_of(seen or model)
        made = _seen(_tried(source, wanted, model, (target, seen)), source, wanted, model)
        if seen is None:
            return made
        from torchgraft.applying import estimate_memory

        mine, more = own_share(seen, Share(target, made, source))
        need = estimate_memory(mine.plan, mine.source, seen)
        return replace(made, memory=replace(need, working=need.working + more))


def load(  # noqa: PLR0913  # what, and how: by name
    model: nn.Module,
    checkpoint: object,
    *,
    plan: Plan | str | os.PathLike[str] | None = None,
    device: object = None,
    mmap: bool = False,
    prefault: bool = False,
    undo: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    **asked: Unpack[Asked],
) -> Report:
    """Put the weights of `checkpoint` into `model`: all that the plan says, or nothing.

    Args:
        model: the module to fill; parameters keep their identity, dtype, device and ties. A module on meta comes out
            whole, on `device` (CPU unless given).
        checkpoint: a path (file or folder), a file open for bytes or an io.BytesIO, a dict of tensors (nested or flat), an
            nn.Module, or an opened source. Tensors that lie in the model's own memory are copied first.
        plan: what plan() returned, or the file it was saved to: it is carried out, and nothing is decided anew. Model and
            checkpoint must have the names, shapes and types that it was made for; values are looked at as ever.
        device: where the tensors of a meta model come to life; a model that has memory stays where it lies.
        mmap: let those of a meta model that need no work be views of the file, which is read when they are used, and must
            stay as it is. Their values are not looked at. What needs work has memory of its own.
        prefault: with `mmap`: bring the file's pages in at once, by two threads.
        undo: how a load that fails can be put back. "keep": old values stay in memory until the load is proved. "check":
            what is only moved is read twice, to the end and checked before the first byte is written, so that its old
            values needn't be kept. "auto": "keep" for small tensors, up to 4 MiB, and "check" for the rest. "none": neither,
            for a model whose values are worth nothing yet: read once, and NaN if that fails.
        progress: called with bytes read and bytes to be read, from any thread, one call at a time. What it raises ends the
            load, and the model is put back; in the second reading of "check" it is not heard any more.
        **asked: what you know and what you accept:
            rename: source pattern -> target pattern; `{i}` is a number, `{name}` a segment, a final dot a prefix.
            fan_out: source prefix -> target prefixes that it fills, each with a copy.
            layers: path of a layer list -> the source's layer number for each of the target's layers.
            copies: module name -> module name that starts as its copy.
            fresh: patterns of tensors that keep their initial values. zero: patterns that start at zero.
            init: pattern -> how added layers start: "identity", "zero" or "zero-gamma" (norms whose scale is zero).
            source_model: the module that the checkpoint was saved from (meta is fine): its layer types, their order
                and numbers of heads are used as well. Needless where `checkpoint` is that module.
            inputs, source_inputs: what both models are run on, as for verify(), "guess" included: outputs prove the plan, or
                correct it; where they prove nothing, parts of the models do (`plan.proof`).
            golden: in place of source_inputs and of a source_model that runs: a file that record() wrote, with its inputs.
            prefer: which of several networks in the file: a container path, a segment of one, or "ema".
            learned: what learn() returned, or the file it was saved to: the checkpoint is converted as it is read.
            statistics: warn of values that look strange: variances of zero, layers that seem untrained, dead rows.
            on_doubt: "refuse" (raise), "skip" (leave fresh) or "take" (the best reading).
            accept: "likely", or "certain": everything less is doubt.
            min_coverage: least share of elements that must find a place, on the better of the two sides.
            strict: refuse anything that stays fresh or unused. policy: a verdict for each kind of objection.
            grow_rows: tables that may grow at their end (a dict says how new rows start: "fresh", "zero", "mean").
            axis_names: pattern -> AxisNames: rows or channels follow names. class_names, class_rows: the same for classes.
            merge_lora, fuse_branches, fold_norms: adapters, branches and batch norms of the file computed into weights.
            qkv_layout, num_heads: "per_head" or "flat": the order of rows of fused q, k, v, where names can't tell.
            kernels: pattern -> "resample", "pad" or "crop": kernels of another size.
            in_channels: rule for other input channels. grids: grids of position tables. permute: axis orders.

    Raises:
        UsageError: an argument makes no sense.
        CheckpointError: the file can't be read.
        PlanRefusedError: the policy refuses the plan, or a value in the file; all objections at once.
        ApplyError: writing failed. In every case the model is as it was before, but for one:
        ModelLostError: the file changed, the disk failed or memory ran out from the second reading of "check" on, or anything
            failed with "none"; what was to be filled is NaN then. "keep" excludes it.
    """
    placed = {"device": device, "mmap": mmap, "prefault": prefault}
    return load_made(model, checkpoint, asked, plan=plan, undo=undo, progress=progress, placed=placed)


def load_made(  # noqa: PLR0913  # what load() was given
    model: nn.Module,
    checkpoint: object,
    asked: Asked,
    *,
    placed: Mapping[str, Any],
    plan: Plan | str | os.PathLike[str] | None = None,
    undo: str = "auto",
    progress: Callable[[int, int], None] | None = None,
    constructor: Constructor | None = None,
) -> Report:
    """Do what load() says; `constructor`, where it is known, initialises what stays fresh of a model on meta."""
    with collector_paused():  # also while modules are imported, the first time: that makes a hundred thousand objects
        from torchgraft.applying import Placement, apply
        from torchgraft.request import requested
        from torchgraft.verifying import compare_values

    wanted = requested("load", asked)
    if not is_module(model):
        raise _no_model(model, checkpoint)
    with (
        collector_paused(),
        processes_of(seen := Walk(model)) as processes,
        processes.in_all(partial(_opened, checkpoint, wanted, model)) as source,
    ):
        target = target_of(seen)
        wanted = _with_origin(wanted, checkpoint)
        decide = partial(_tried, source, wanted, model, (target, seen))
        if plan is not None:
            decide = partial(_kept, plan, source, target, asked)
        made = processes.plan_once(lambda: _seen(decide(), source, wanted, model), target, source)
        start = time.perf_counter()
        filled = model if wanted.tries else seen
        fill = partial(
            apply,
            filled,
            verify=compare_values,
            placement=Placement(**placed),
            constructor=constructor,
            progress=progress,
        )
        done = processes.fill(fill, undo, model, Share(target, made, source))
    cost = Cost(
        plan_seconds=made.seconds,
        apply_seconds=time.perf_counter() - start,
        bytes_read=done.bytes_read,
        bytes_written=done.bytes_written,
        undo_bytes=done.undo_bytes,
    )
    final = replace(made, objections=(*made.objections, *done.notes))
    return Report(
        plan=final,
        checks=(*done.checks, *_proved(final)),
        cost=cost,
        initialised=done.initialised,
        mapped=done.mapped,
        renderers=renderers("report"),
    )


def _no_model(model: object, checkpoint: object) -> UsageError:
    """Return an error that says what was given in place of a model."""
    if isinstance(model, type):
        return UsageError(
            f"the class {model.__name__} can't be filled: give an nn.Module, which {model.__name__}(...) makes"
        )
    hint = (
        "load() takes the model first, then the checkpoint"
        if is_module(checkpoint)
        else "plan() takes other models, too"
    )
    return UsageError(f"{a_kind(model)} can't be filled: give an nn.Module; {hint}")


def _walked(model: object) -> Walk | None:
    """Return one walk over a module, for all who look at it; None for what only stands for a model."""
    return Walk(model) if is_module(model) else None  # type: ignore[arg-type]  # a module, by its looks


def _tried(source: Source, asked: Request, model: object, seen: tuple[Target, Walk | None]) -> Plan:
    """Return the plan, and with inputs or a recorded run one that the model was run for; `seen` is what it is now."""
    if not asked.tries:
        return make_plan(source, seen[0], asked, seen[1] or model)
    from torchgraft.proved_planning import settled

    return settled(source, asked, model, lambda one, wanted: make_plan(source, target_of(one), wanted, one))


def _proved(plan: Plan) -> tuple[Check, ...]:
    """Return the check that both models gave the same, where that was asked for and held."""
    return (Check("outputs", passed=True, text=plan.proof.words()),) if plan.proof and plan.proof.passed else ()


def _kept(plan: Plan | str | os.PathLike[str], source: Source, target: Target, asked: Mapping[str, object]) -> Plan:
    """Return a plan made before, on the model at hand; its origin and format are those of the checkpoint at hand."""
    from torchgraft.planfile import fitted
    from torchgraft.verifying.values.digests import recheck_proof

    others = sorted(set(asked) - {"learned", "statistics"})
    if others:
        raise UsageError(
            f"plan= holds all decisions: {', '.join(f'{name}=' for name in others)} can't be given beside it"
        )
    if not isinstance(plan, (Plan, str, os.PathLike)):
        raise UsageError(f"plan is {a_kind(plan)}: give what plan() returned, or the file it was saved to")
    found = plan if isinstance(plan, Plan) else read_plan(plan)
    return recheck_proof(fitted(found, source, target), source)


def _opened(checkpoint: object, asked: Request, filled: object) -> Source:
    """Return the opened checkpoint, seen through the conversion that was asked for, apart from the model to be filled."""
    source = apart_from(open_checkpoint(checkpoint), filled)
    if asked.learned is None:
        return source
    try:
        return asked.learned.opened(source, asked.prefer)
    except BaseException:
        source.close()
        raise


def _seen(made: Plan, source: Source, asked: Request, model: object) -> Plan:
    """Return the plan with what only values tell; all of them are read where statistics were asked for."""
    from torchgraft.verifying import check_values, with_suspicions

    checked = check_values(made, source, model)
    return with_suspicions(checked, source) if asked.statistics else checked


def _with_origin(asked: Request, checkpoint: object) -> Request:
    """Return the request with the source's model, which is the checkpoint itself where that is a module."""
    given = asked.source_model is None and is_module(checkpoint)
    return replace(asked, source_model=checkpoint) if given else asked
