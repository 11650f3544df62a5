"""The one place where the stages meet: plan() is the first half of load(), so a plan can't promise what load won't do."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from torchgraft import diffing, reporting
from torchgraft.core.collector import collector_paused
from torchgraft.core.errors import UsageError
from torchgraft.core.inspection import Inspection, summarise
from torchgraft.core.plan import Objection, Plan, Unused, Why
from torchgraft.core.policy import Policy, Verdict
from torchgraft.core.report import Cost, Report
from torchgraft.core.shown import Renderers
from torchgraft.matching import Rules, choose, join_ranks, match
from torchgraft.reading import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from torchgraft.adapting import ClassRows, Options
    from torchgraft.core.diff import Diff
    from torchgraft.core.specs import Network, Source, Target
    from torchgraft.surveying.hooks import Renames
    from torchgraft.tuning import CarriedState

ON_DOUBT = ("refuse", "skip", "take")
ACCEPT = ("certain", "likely")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """All keyword arguments of plan() and load(), checked."""

    rules: Rules
    options: Options
    policy: Policy
    prefer: str | None = None
    on_doubt: str = "refuse"
    accept: str = "likely"
    tensor_parallel: Mapping[str, str] = field(default_factory=dict)


def request(  # noqa: PLR0913  # the one list of the library's keyword arguments
    *,
    rename: Mapping[str, str] | None = None,
    fan_out: Mapping[str, Sequence[str]] | None = None,
    layers: Mapping[str, Sequence[int]] | None = None,
    copies: Mapping[str, str] | None = None,
    fresh: Sequence[str] = (),
    zero: Sequence[str] = (),
    prefer: str | None = None,
    on_doubt: str = "refuse",
    accept: str = "likely",
    min_coverage: float | None = None,
    strict: bool = False,
    policy: Policy | None = None,
    grow_rows: Sequence[str] = (),
    class_names: Mapping[str, Sequence[str]] | None = None,
    class_rows: Mapping[str, int] | None = None,
    in_channels: Mapping[str, str] | None = None,
    grids: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] | None = None,
    permute: Mapping[str, Sequence[int]] | None = None,
    merge_lora: bool | float = False,
    fuse_branches: bool = False,
    fold_norms: bool | float = False,
    init: Mapping[str, str] | None = None,
    tensor_parallel: Mapping[str, str] | None = None,
) -> Request:
    """Return the checked request; see load() for what each argument means.

    Raises:
        UsageError: an argument makes no sense.
    """
    from torchgraft.adapting import Options

    if on_doubt not in ON_DOUBT:
        raise UsageError(f"on_doubt={on_doubt!r}: use one of {', '.join(map(repr, ON_DOUBT))}")
    if accept not in ACCEPT:
        raise UsageError(f"accept={accept!r}: use one of {', '.join(map(repr, ACCEPT))}")
    if min_coverage is not None and not 0 <= min_coverage <= 1:
        raise UsageError(f"min_coverage={min_coverage!r}: use a share between 0 and 1")
    for name, value in (("fresh", fresh), ("zero", zero), ("grow_rows", grow_rows)):
        if isinstance(value, str):
            raise UsageError(f"{name}={value!r}: give a list of patterns, e.g. {name}=[{value!r}]")
    chosen = policy or Policy()
    if on_doubt != "refuse":
        chosen = replace(chosen, doubt=Verdict.WARN)
    if strict:
        chosen = replace(chosen, missing=Verdict.REFUSE, unused=Verdict.REFUSE)
    if min_coverage is not None:
        chosen = replace(chosen, min_coverage=min_coverage)
    rules = Rules(
        rename=rename or {}, fan_out=fan_out or {}, layers=layers or {}, copies=copies or {}, fresh=fresh, zero=zero
    )
    options = Options(
        grow_rows=grow_rows, classes=_classes(class_names, class_rows), in_channels=in_channels or {},
        grids=grids or {}, permute=permute or {}, merge_lora=merge_lora, fuse_branches=fuse_branches,
        fold_norms=fold_norms, init=init or {},
    )  # fmt: skip
    return Request(
        rules=rules,
        options=options,
        policy=chosen,
        prefer=prefer,
        on_doubt=on_doubt,
        accept=accept,
        tensor_parallel=tensor_parallel or {},
    )


def _classes(names: Mapping[str, Sequence[str]] | None, rows: Mapping[str, int] | None) -> ClassRows | None:
    from torchgraft.adapting import ClassRows

    if names is None and rows is None:
        return None
    if names is None or rows is None or set(names) != {"source", "target"}:
        raise UsageError(
            "class rows need class_names={'source': [...], 'target': [...]} and class_rows={module: rows per class}"
        )
    for side, listed in names.items():
        twice = sorted({n for n in listed if list(listed).count(n) > 1})
        if twice:
            raise UsageError(f"class_names[{side!r}] holds {', '.join(map(repr, twice[:4]))} more than once")
    return ClassRows(source=tuple(names["source"]), target=tuple(names["target"]), modules=dict(rows))


def make_plan(source: Source, target: Target, asked: Request, model: object = None) -> Plan:
    """Return the plan for an opened source and a surveyed target; `model` lends its own loading code, if it is there."""
    with collector_paused():
        return _planned(source, target, asked, model)


def _planned(source: Source, target: Target, asked: Request, model: object) -> Plan:
    from torchgraft.adapting import Brief, Wishes, adapt, requested_steps, views_of

    start = time.perf_counter()
    ranks = join_ranks(source.networks, target.slots, asked.tensor_parallel)
    choice = choose((ranks.network,) if ranks else source.networks, target.slots, asked.prefer)
    specs = choice.network.specs
    settled = requested_steps(specs, target, asked.options, choice.network.path)
    taken = {feed.key for step in settled.values() for feed in step.feeds}
    left = {key: spec for key, spec in specs.items() if key not in taken} if taken else specs
    rules = asked.rules
    views = views_of(
        left, target, asked.options, lambda name: name in settled or rules.is_fresh(name) or rules.is_zero(name)
    )
    left, seen = (views[-1].shown, views[-1].target) if views else (left, target)
    hooks = _renames(model, source, choice.network)
    matching = match(left, seen, rules, prefer=asked.prefer, settled=settled, renamed=hooks.renames)
    wishes = Wishes(is_fresh=rules.is_fresh, is_zero=rules.is_zero, on_doubt=asked.on_doubt, accept=asked.accept)
    brief = Brief(
        options=asked.options,
        policy=asked.policy,
        wishes=wishes,
        network=choice.network.path,
        settled=settled,
        ranks=ranks,
        views=views,
    )
    plan = adapt(matching, target, specs, brief)
    objections = plan.objections
    rivals = (*choice.rivals, *matching.rivals)
    if rivals:
        mine = choice.network.path or matching.chosen or "top level"
        text = f"several networks in the file fit equally: {', '.join(map(repr, (mine, *rivals)))}; choose one with prefer="
        objections = (Objection("container", text, (mine, *rivals)), *objections)
    notes = tuple(n for n in (choice.note, *source.warnings, *hooks.notes, *plan.notes) if n)
    return replace(
        plan, objections=objections, notes=notes, origin=source.origin, format=source.format,
        seconds=time.perf_counter() - start,
        renderers=Renderers(reporting.plan_text, reporting.plan_to_dict, reporting.plan_html),
    )  # fmt: skip


def inspect(checkpoint: object, *, prefer: str | None = None) -> Inspection:
    """Return what a checkpoint holds: format, networks, names, shapes, types and the facts beside them.

    Reads no values, runs nothing of the file, and doesn't import torch for files.

    Raises:
        CheckpointError: the file can't be read.
        UsageError: `prefer` names no network of the file.
    """
    with open_checkpoint(checkpoint) as source:
        choice = choose(source.networks, (), prefer)
        found = summarise(source, choice.network, choice.rivals, choice.note)
    return replace(found, renderers=Renderers(reporting.inspect_text, reporting.inspection_to_dict))


def diff(old: object, new: object, *, values: bool = False, prefer: str | None = None) -> Diff:
    """Return how two checkpoints (or a checkpoint and a model) differ: names, shapes, types and, on request, values.

    Raises:
        CheckpointError: a file can't be read.
        UsageError: `prefer` names no network of a file.
    """
    with open_checkpoint(old) as first, open_checkpoint(new) as second:
        left, right = ((s, choose(s.networks, (), prefer).network) for s in (first, second))
        found = diffing.compare_with_values(left, right) if values else diffing.compare(left, right)
    return replace(found, renderers=Renderers(reporting.diff_text, reporting.diff_to_dict))


def plan(model: object, checkpoint: object, **asked: Any) -> Plan:
    """Return what load() would do, and touch nothing.

    `model` is an nn.Module (meta is fine), or a checkpoint whose names and shapes stand for one. `checkpoint` is a
    path (file or folder), a dict of tensors, an nn.Module or an opened source. Keyword arguments as for load().

    Raises:
        UsageError: an argument makes no sense.
        CheckpointError: the file can't be read.
    """
    wanted = request(**asked)
    with open_checkpoint(checkpoint) as source:
        return _with_values(make_plan(source, _target(model), wanted, model), source)


def load(model: nn.Module, checkpoint: object, *, device: object = None, **asked: Any) -> Report:
    """Put the weights of `checkpoint` into `model`: all that the plan says, or nothing.

    Args:
        model: the module to fill; parameters keep their identity, dtype, device and ties. A module on meta comes out
            whole, on `device` (CPU unless given).
        checkpoint: a path (file or folder), a dict of tensors (nested or flat), an nn.Module, or an opened source.
        device: where the tensors of a meta model come to life.
        **asked: what you know and what you accept:
            rename: source pattern -> target pattern; `{i}` is a number, `{name}` a segment, a final dot a prefix.
            fan_out: source prefix -> target prefixes that it fills, each with a copy.
            layers: path of a layer list -> the source's layer number for each of the target's layers.
            copies: module name -> module name that starts as its copy.
            fresh: patterns of tensors that keep their initial values. zero: patterns that start at zero.
            init: pattern -> how added layers start: "identity", "zero" or "zero-gamma" (norms whose scale is zero).
            prefer: which of several networks in the file: a container path, a segment of one, or "ema".
            on_doubt: "refuse" (raise), "skip" (leave fresh) or "take" (the best reading).
            accept: "likely", or "certain": everything less is doubt.
            min_coverage: least share of elements that must find a place, on the better of the two sides.
            strict: refuse anything that stays fresh or unused. policy: a verdict for each kind of objection.
            grow_rows: tables that may grow at their end. class_names, class_rows: class rows move by name.
            merge_lora, fuse_branches, fold_norms: adapters, branches and batch norms of the file computed into weights.
            in_channels: rule for other input channels. grids: grids of position tables. permute: axis orders.

    Raises:
        UsageError: an argument makes no sense.
        CheckpointError: the file can't be read.
        PlanRefusedError: the policy refuses the plan, or a value in the file; all objections at once.
        ApplyError: writing failed. In every case the model is as it was before.
    """
    from torchgraft.applying import apply
    from torchgraft.verifying import compare_values

    wanted = request(**asked)
    with open_checkpoint(checkpoint) as source:
        target = _target(model)
        made = _with_values(make_plan(source, target, wanted, model), source)
        start = time.perf_counter()
        done = apply(model, target, made, source, verify=compare_values, device=device)  # type: ignore[arg-type]
    cost = Cost(
        plan_seconds=made.seconds, apply_seconds=time.perf_counter() - start, bytes_read=done.bytes_read,
        bytes_written=done.bytes_written, undo_bytes=done.undo_bytes,
    )  # fmt: skip
    final = replace(made, objections=(*made.objections, *done.notes))
    return Report(
        plan=final, checks=done.checks, cost=cost, initialised=done.initialised,
        renderers=Renderers(reporting.report_text, reporting.report_to_dict, reporting.report_html),
    )  # fmt: skip


def optimizer_state(
    model: nn.Module, optimizer: Optimizer, report: Report | Plan, checkpoint: object, *, prefer: str | None = None,
    names: Sequence[str] | None = None,
) -> CarriedState:  # fmt: skip
    """Let every parameter that load() copied unchanged go on with the state that the old optimizer had for it.

    The rest starts fresh and is named with the reason, as do parameters that were resized or filled in part. Learning
    rates and other settings stay those of `optimizer`. All or nothing.

    Args:
        model: the model that was loaded.
        optimizer: a new optimizer of the same kind as the old one, over parameters of `model`.
        report: what load() returned.
        checkpoint: what holds the old optimizer's state_dict(), as for load(); mostly the same file.
        prefer: which of several optimizers in it: a container path, or a segment of one.
        names: the old optimizer's parameters, group after group, where neither names in the file nor the order of
            parameters tells.

    Raises:
        UsageError: the state can't be told apart, or belongs to other parameters or another kind of optimizer.
        CheckpointError: the file can't be read.
    """
    from torchgraft.tuning import carry_state

    with open_checkpoint(checkpoint) as source:
        return carry_state(model, optimizer, report, source, prefer=prefer, names=names)


def _target(model: object) -> Target:
    from torchgraft.surveying import survey, target_from_specs

    if hasattr(model, "named_parameters"):
        return survey(model)  # type: ignore[arg-type]  # duck-typed, so that torch stays unimported for files
    with open_checkpoint(model) as source:
        return target_from_specs(choose(source.networks, (), None).network.specs)


def _renames(model: object, source: Source, network: Network) -> Renames:
    """Return what the model's own load hooks make of the file's names; nothing for models without such code."""
    from torchgraft.surveying.hooks import Renames, rename_by_hooks

    if not hasattr(model, "named_parameters"):
        return Renames()
    versions = source.metadata.get("versions")
    mine = versions.get(network.path) if isinstance(versions, dict) else None
    return rename_by_hooks(model, network.specs, mine) or Renames()  # type: ignore[arg-type]  # a module, as asked


def _with_values(made: Plan, source: Source) -> Plan:
    """Return the plan with what only values tell: tied tensors that differ, and unused ones that repeat a used one."""
    return replace(made, objections=(*made.objections, *_conflicts(made, source)), unused=_without_echoes(made, source))


def _conflicts(made: Plan, source: Source) -> tuple[Objection, ...]:
    """Return an objection for each tied slot that two source tensors of different values claim."""
    from torchgraft.verifying.sources import same_values

    network = next(n for n in source.networks if n.path == made.network)
    out = []
    for unused in made.unused:
        if unused.why.rule != "alias":
            continue
        key = unused.spec.name
        fed = made.by_name[key].feeds[0].key
        shared = network.shared or {}
        if shared.get(key, key) != shared.get(fed, fed) and not same_values(source, made.network, key, fed):
            text = f"{key} and {fed} are one tensor in the model (tied) and hold different values in the file"
            out.append(
                Objection("conflict", f"{text}; remove one of them from the file, or untie the model", (key, fed))
            )
    return tuple(out)


def _without_echoes(made: Plan, source: Source) -> tuple[Unused, ...]:
    """Return the unused tensors; those that repeat a used one, value for value, are nothing to worry about."""
    from torchgraft.verifying.sources import echoes

    spare = [u.spec for u in made.unused if not u.quiet and u.why.rule == "no counterpart"]
    if not spare:
        return made.unused
    used = {feed.key: made.source_specs[feed.key] for step in made.steps for feed in step.feeds}
    twins = echoes(source, made.network, spare, used.values())
    return tuple(
        replace(u, quiet=True, why=Why("echo", f"holds the same values as {twins[u.spec.name]}"))
        if u.spec.name in twins
        else u
        for u in made.unused
    )
