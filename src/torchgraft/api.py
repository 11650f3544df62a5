"""load(), plan() and build(), where all stages meet: plan() is the first half of load(), so it can't promise what load won't do."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Unpack

from torchgraft.core.choices import UndoWay
from torchgraft.core.errors import UninitialisedError, UsageError
from torchgraft.core.objects import a_kind
from torchgraft.core.places import Walk, is_module
from torchgraft.core.plan import Plan
from torchgraft.core.results.report import Check, Cost, Report
from torchgraft.core.specs import Source, Target
from torchgraft.core.system.fast_objects import collector_paused
from torchgraft.core.system.progress import Progress
from torchgraft.planning import make_plan, target_of
from torchgraft.reading import apart_from, open_checkpoint
from torchgraft.reporting import renderers
from torchgraft.saving import read_plan
from torchgraft.spreading import Asked, Share, own_share, processes_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from torchgraft.applying import Applied, Manner
    from torchgraft.arguments import Arguments
    from torchgraft.request import Request


def plan(model: object, checkpoint: object, **arguments: Unpack[Arguments]) -> Plan:
    """Return what load() would do, and touch nothing.

    `model` is an nn.Module (meta is fine), or a checkpoint whose names and shapes stand for one. `checkpoint` is a
    path (file or folder), an open file or io.BytesIO, a dict of tensors, an nn.Module or an opened source. Keyword arguments as
    for load().

    Raises:
        UsageError: an argument makes no sense.
        CheckpointError: the file can't be read.
    """
    from torchgraft.request import checked_request

    request = checked_request("plan", arguments)
    with collector_paused(), _open(checkpoint, request, model if request.runs_models else None) as source:
        walk = Walk(model) if is_module(model) else None
        request = _with_source_model(request, checkpoint)
        target = target_of(walk or model)
        decided = _decide(source, request, target, walk or model)
        decided = _with_facts_of_values(decided, source, request, model)
        if walk is None:
            return decided
        from torchgraft.applying import estimate_memory

        mine, more = own_share(walk, Share(target, decided, source))
        need = estimate_memory(mine.plan, mine.source, walk)
        return replace(decided, memory=replace(need, working=need.working + more))


def load(  # noqa: PLR0913  # what, and how: by name
    model: nn.Module,
    checkpoint: object,
    *,
    plan: Plan | str | os.PathLike[str] | None = None,
    device: object = None,
    mmap: bool = False,
    prefault: bool = False,
    undo: UndoWay = "auto",
    progress: Progress | None = None,
    **arguments: Unpack[Arguments],
) -> Report:
    """Put the weights of `checkpoint` into `model`: all that the plan says, or nothing.

    Args:
        model: the module to fill; parameters keep their identity, dtype, device and ties. A module on the meta device
            comes out with values for all of its tensors, on `device` (the CPU unless given).
        checkpoint: a path (file or folder), a file open for bytes or an io.BytesIO, a dict of tensors (nested or flat), an
            nn.Module, or an opened source. Tensors that lie in the model's own memory are copied first.
        plan: what plan() returned, or the path of a saved plan. It is carried out as it stands; model and checkpoint must
            have the names, shapes and types that it was made for. Values are checked as in any load. Beside a plan only
            `learned`, `statistics` and `policy` can be given; `policy` then rules on what values show (NaN, overflow).
        device: where the tensors of a meta model are allocated; a model that has values stays on its own devices.
        mmap: for a model on the meta device: tensors that need no conversion become views of the mapped file. They are read
            when they are first used, their values are not checked, and the file must not change while the model lives.
        prefault: with `mmap`: read the mapped pages at once, with two threads.
        undo: how the model is put back if the load fails.
            "keep": the old values are kept in memory until the new ones have been compared with the file.
            "check": the file is read to its end and checked before the first byte is written, then read again, so that
            no old values are kept; tensors that are computed still keep theirs.
            "auto": "keep" for the smallest tensors, 4 MiB of them in all, "check" for the rest.
            "none": the file is read once and nothing is kept, for a model whose values are worth nothing yet; if that
            fails, what was to be filled is NaN.
        progress: called with (bytes read, bytes to be read), from any thread, one call at a time. An exception from it ends
            the load, and the model is put back; one that comes in the second reading of "check" is ignored.
        **arguments: what you know and what you accept:
            rename: source pattern -> target pattern; `{i}` is a number, `{name}` a segment, a final dot a prefix.
            fan_out: source prefix -> target prefixes that it fills, each with a copy.
            layers: path of a layer list (`blocks`, `layer{i}` of `layer1`, `{i}` of `0`) -> the source's layer number for each
                of the target's.
            copies: module of the model -> the module that starts as its copy (`attn`: in each block that has both).
            fresh: patterns of tensors that keep their initial values. zero: patterns that start at zero.
            init: pattern -> how added layers start: "identity", "zero" or "zero-gamma" (norms whose scale is zero).
            source_model: the module that the checkpoint was saved from (meta is fine): its layer types, their order,
                numbers of heads and grids of patches are used as well. Needless where `checkpoint` is that module.
            inputs, source_inputs: what both models are run on, as for verify(), "guess" included. Equal outputs prove the
                plan, other outputs correct it; what outputs can't prove, runs of single modules may (`plan.proof`).
            golden: a file that record() wrote: it stands for source_inputs and for a source_model with values.
            prefer: which of several networks in the file: a container path, a segment of one, or "ema".
            learned: what learn() returned, or the file it was saved to: the checkpoint is converted as it is read.
            statistics: warn of values that look strange: variances of zero, layers that seem untrained, dead rows.
            on_doubt: "refuse" (raise), "skip" (leave fresh) or "take" (the best reading).
            accept: "likely" (the default), or "certain": then what is only likely counts as doubt.
            min_coverage: least share of elements that must find a place, on the better of the two sides.
            strict: refuse anything that stays fresh or unused. policy: a verdict for each kind of objection.
            grow_rows: tables that may grow at their end (a dict says how new rows start: "fresh", "zero", "mean").
            axis_names: pattern -> AxisNames: rows or channels follow names. class_names, class_rows: the same for classes.
            merge_lora, fuse_branches, fold_norms: compute adapters, parallel branches or batch norms of the file into weights.
            tensor_parallel: pattern -> how the ranks of the file share a tensor: "replicated", "rows", "columns" and others.
            qkv_layout, num_heads: "per_head" or "flat": the order of rows of fused q, k, v, where names can't tell.
            kernels: pattern -> "resample", "pad" or "crop": kernels of another size.
            in_channels: rule for other input channels. grids: grids of position tables. permute: axis orders.

    Raises:
        UsageError: an argument makes no sense.
        CheckpointError: the file can't be read.
        PlanRefusedError: the policy refuses the plan, or a value in the file; all objections at once.
        ApplyError: writing failed.
        ModelLostError: the file changed, the disk failed or memory ran out during the second reading of "check", or anything
            failed with undo="none"; what was to be filled is NaN. With undo="keep" it can't come.

    In every case but ModelLostError the model is as it was before.
    """
    manner = partial(_manner, device=device, mmap=mmap, prefault=prefault, undo=undo, progress=progress)
    return _not_compiled(_load)(model, checkpoint, arguments, plan, manner)


def build(  # noqa: PLR0913  # what load() takes, but for the model
    factory: Callable[[], nn.Module],
    checkpoint: object,
    *,
    device: str | torch.device | None = None,
    mmap: bool = False,
    prefault: bool = False,
    plan: Plan | str | os.PathLike[str] | None = None,
    undo: UndoWay = "auto",
    progress: Progress | None = None,
    **arguments: Unpack[Arguments],
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
        plan: as for load().
        undo: as for load().
        progress: as for load().
        **arguments: as for load().

    Raises:
        UsageError: the factory returns no module, or an argument makes no sense.
        CheckpointError, PlanRefusedError, ApplyError: as for load().
    """
    from torchgraft.applying import Placement, build_on_meta, build_with_values

    if is_module(factory) or not callable(factory):
        what = "give a function or class that makes the model; load() fills one that is there"
        raise UsageError(f"factory is {a_kind(factory)}: {what}")
    manner = _manner(device=device, mmap=mmap, prefault=prefault, undo=undo, progress=progress)
    fill = partial(_load, checkpoint=checkpoint, arguments=arguments, plan=plan, caller="build")
    made, reason = build_on_meta(factory)
    if made is not None:
        model, constructor = made
        try:
            report = fill(model, manner=lambda: replace(manner, constructor=constructor))
        except UninitialisedError as error:
            reason = error.objections[0].fact
        else:
            if device is not None:
                model.to(device)  # buffers, which were made with their values
            return model, report
    model = build_with_values(factory, device)
    report = fill(model, manner=lambda: replace(manner, placement=Placement()))
    note = f"the model was made with all its values first{', and nothing is mapped' if mmap else ''}: {reason}"
    return model, replace(report, plan=replace(report.plan, notes=(*report.plan.notes, note)))


def _manner(*, device: object, mmap: bool, prefault: bool, undo: UndoWay, progress: Progress | None) -> Manner:
    """Return how the plan is to be carried out."""
    from torchgraft.applying import Manner, Placement

    where = Placement(device=device, mmap=mmap, prefault=prefault)  # type: ignore[arg-type]  # as torch takes it
    return Manner(placement=where, undo=undo, progress=progress)


def _load(
    model: nn.Module,
    checkpoint: object,
    arguments: Arguments,
    plan: Plan | str | os.PathLike[str] | None,
    manner: Callable[[], Manner],
    *,
    caller: str = "load",
) -> Report:
    """Do what load() says, or another `caller` who fills a model; `manner` raises UsageError in all processes or in none."""
    with collector_paused():  # also while modules are imported, the first time: that makes a hundred thousand objects
        from torchgraft.applying import apply, expect_values
        from torchgraft.request import checked_request
        from torchgraft.verifying import compare_values

    if not is_module(model):
        checked_request(caller, arguments)
        raise _no_model(model, checkpoint)
    expect_values(walk := Walk(model))
    with ExitStack() as stack:
        stack.enter_context(collector_paused())
        processes = stack.enter_context(processes_of(walk))
        request = processes.in_all(partial(checked_request, caller, arguments))
        how = processes.in_all(manner)
        source = stack.enter_context(processes.in_all(partial(_open, checkpoint, request, model)))
        target = target_of(walk)
        request = _with_source_model(request, checkpoint)
        decide = partial(_decide, source, request, target, walk)
        if plan is not None:
            decide = partial(_kept_plan, plan, source, target, arguments)
        decided = processes.plan_once(
            lambda: _with_facts_of_values(decide(), source, request, model),
            Asked(target, source, lambda: f"{request.words()}; plan={plan is not None}"),
        )
        start = time.perf_counter()
        fill = partial(apply, model if request.runs_models else walk, manner=how, verify=compare_values)
        done = processes.fill(fill, model, Share(target, decided, source))
    return _report(decided, done, time.perf_counter() - start)


def _report(decided: Plan, done: Applied, seconds: float) -> Report:
    """Return the report of a plan that was carried out in so many seconds."""
    proof = decided.proof
    proved = (Check("outputs", passed=True, text=proof.words()),) if proof and proof.passed else ()
    return Report(
        plan=replace(decided, objections=(*decided.objections, *done.notes)),
        checks=(*done.checks, *proved),
        cost=Cost(
            plan_seconds=decided.seconds,
            apply_seconds=seconds,
            bytes_read=done.bytes_read,
            bytes_written=done.bytes_written,
            undo_bytes=done.undo_bytes,
        ),
        initialised=done.initialised,
        mapped=done.mapped,
        renderers=renderers("report"),
    )


def _not_compiled(function: Callable[..., Report]) -> Callable[..., Report]:
    """Return the function as torch.compile leaves it alone: within a compiled module it would compile what goes on in here."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled then, and importing it takes long
        return function
    import torch

    made: Callable[..., Report] = torch.compiler.disable(function)
    return made


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


def _decide(source: Source, request: Request, target: Target, model: object) -> Plan:
    """Return the plan; with inputs or a recorded run one that both models were run for. `target` is the model as it is now."""
    if not request.runs_models:
        return make_plan(source, target, request, model)
    from torchgraft.proved_planning import make_proved_plan

    model = model.model if isinstance(model, Walk) else model
    return make_proved_plan(source, request, model, lambda one, wanted: make_plan(source, target_of(one), wanted, one))


def _kept_plan(plan: Plan | str | os.PathLike[str], source: Source, target: Target, arguments: Arguments) -> Plan:
    """Return a plan made before, on the model at hand; its origin and format are those of the checkpoint at hand."""
    from torchgraft.planfile import fitted
    from torchgraft.verifying.values.digests import recheck_proof

    others = sorted(set(arguments) - {"learned", "statistics", "policy"})
    if others:
        raise UsageError(
            f"plan= holds all decisions: {', '.join(f'{name}=' for name in others)} can't be given beside it"
        )
    if not isinstance(plan, (Plan, str, os.PathLike)):
        raise UsageError(f"plan is {a_kind(plan)}: give what plan() returned, or the file it was saved to")
    found = plan if isinstance(plan, Plan) else read_plan(plan)
    if (values := arguments.get("policy")) is not None:
        found = replace(found, policy=found.policy.overruled(values))
    return recheck_proof(fitted(found, source, target), source)


def _open(checkpoint: object, request: Request, filled: object) -> Source:
    """Return the opened checkpoint, seen through the conversion that was asked for, apart from the model to be filled."""
    source = apart_from(open_checkpoint(checkpoint), filled)
    if request.learned is None:
        return source
    try:
        return request.learned.opened(source, request.prefer)
    except BaseException:
        source.close()
        raise


def _with_facts_of_values(plan: Plan, source: Source, request: Request, model: object) -> Plan:
    """Return the plan with what only values tell; all of them are read where statistics were asked for."""
    from torchgraft.verifying import check_values, with_suspicions

    checked = check_values(plan, source, model)
    return with_suspicions(checked, source) if request.statistics else checked


def _with_source_model(request: Request, checkpoint: object) -> Request:
    """Return the request with the source's model, which is the checkpoint itself where that is a module."""
    given = request.source_model is None and is_module(checkpoint)
    return replace(request, source_model=checkpoint) if given else request
