"""A plan turned round: from the tensors of the model back to those of the checkpoint, op by op.

Each op has an inverse or none. A tensor that the plan cut into parts is put together again where all of them are in the model,
each once. Nothing is looked at but names and shapes, so the size of the model doesn't matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate, chain
from typing import NamedTuple

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.formatting import listed
from torchgraft.core.plan import Feed, Op, Plan, Step
from torchgraft.core.results.conversion import Absent, Conversion, Output
from torchgraft.core.specs import TensorSpec
from torchgraft.ops import Cast, Concat, Index, Reshape, SelectRows, SliceDim, Stack
from torchgraft.ops.exact import inverse_permutation
from torchgraft.ops.runs import Run

SHOWN = 3
SCATTERED = "it was cut into parts that no single join puts together again"
TWICE = "parts of it are in the model more than once, and may differ by now"


@dataclass(frozen=True, slots=True)
class _Part:
    """Where a source tensor, or a part of it, is in the model.

    `back` leads from the slot to what was fed into it, `own` are the ops that the feed went through on its way there.
    """

    slot: TensorSpec
    back: tuple[Op, ...]
    own: tuple[Op, ...]


class _NoWayBackError(Exception):
    """Why a tensor can't be given back."""


def inverse_conversion(plan: Plan, *, rest: bool = False) -> Conversion:
    """Return the conversion of the model's tensors to those of the checkpoint that `plan` was made for.

    Outputs have the shapes of the checkpoint and the element types of the model. With `rest` the model's other tensors are
    among them, under their own names, unless the checkpoint's have these.

    Raises:
        UsageError: the plan reads several networks, such as the files of ranks.
    """
    networks = sorted({feed.network for step in plan.steps for feed in step.feeds})
    if len(networks) > 1:
        said = f"the plan joins {len(networks)} networks ({listed(networks, SHOWN)})"
        raise UsageError(f"{said}: only what came from one can be given back")
    outputs, lost = _outputs(plan)
    slots = [_named(step) for step in plan.steps if step.slot.persistent]
    if rest:
        used = {feed.key for output in outputs.values() for feed in output.feeds}
        others = [spec for spec in slots if spec.name not in used and spec.name not in outputs]
        outputs |= {spec.name: Output(spec=spec, feeds=(Feed(spec.name),)) for spec in others}
    left = [spec for key, spec in plan.source_specs.items() if key not in outputs]
    return Conversion(
        sources={spec.name: spec for spec in slots},
        outputs=tuple(outputs.values()),
        absent=tuple([Absent(spec=spec, why=lost.get(spec.name, "nothing was made of it")) for spec in left]),
        partly=tuple([step.slot.name for step in plan.steps if _holds_more(step, plan.source_specs)]),
    )


def _outputs(plan: Plan) -> tuple[dict[str, Output], dict[str, str]]:
    """Return by name what makes each tensor of the checkpoint, in the order of the checkpoint, and why nothing makes some."""
    specs = plan.source_specs
    parts: dict[str, list[_Part]] = {}
    lost = {one.spec.name: one.why.text for one in plan.unused}
    for step in plan.steps:
        try:
            backs = _backs(step, specs)
        except _NoWayBackError as why:
            lost |= {feed.key: str(why) for feed in step.feeds}
        else:
            for feed, back in zip(step.feeds, backs, strict=True):
                parts.setdefault(feed.key, []).append(_Part(_named(step), back, feed.ops))
    outputs: dict[str, Output] = {}
    for key in parts.keys() - lost.keys():
        try:
            outputs[key] = _put_together(specs[key], parts[key])
        except _NoWayBackError as why:
            lost[key] = str(why)
    outputs |= _under_other_names(plan, outputs)
    return {key: outputs[key] for key in specs if key in outputs}, lost


def _holds_more(step: Step, specs: Mapping[str, TensorSpec]) -> bool:
    """Return whether a slot has more elements than it was fed: rows that are new, or that a rule made."""
    fed = sum([reduce(_after, feed.ops, specs[feed.key]).numel for feed in step.feeds])
    return bool(step.feeds) and not step.base and step.slot.spec.numel > fed


def _named(step: Step) -> TensorSpec:
    """Return the spec of a slot under the first of its names, as the model's state dict has it."""
    spec = step.slot.spec
    return spec if spec.name == step.slot.name else TensorSpec(step.slot.name, spec.shape, spec.dtype)


def _under_other_names(plan: Plan, outputs: Mapping[str, Output]) -> dict[str, Output]:
    """Return the outputs of tensors that the checkpoint has under further names."""
    again = [(one.spec.name, outputs[one.same_as]) for one in plan.unused if one.same_as in outputs]
    return {name: replace(made, spec=TensorSpec(name, made.spec.shape, made.spec.dtype)) for name, made in again}


def _backs(step: Step, specs: Mapping[str, TensorSpec]) -> list[tuple[Op, ...]]:
    """Return for each feed the ops that lead from the slot back to what the feed gave."""
    if not step.feeds:
        return []
    if step.base:
        raise _NoWayBackError(f"it was added to values of {printable(step.slot.name)}")
    if not step.slot.persistent:
        raise _NoWayBackError(f"{printable(step.slot.name)}, which it filled, is in no state dict")
    lead = (SelectRows(step.rows.dim, step.rows.indices),) if step.rows else ()
    fed = [reduce(_after, feed.ops, specs[feed.key]) for feed in step.feeds]
    if len(fed) == 1:
        return [(*lead, *_undone(step.ops, fed[0]))]
    first, *rest = step.ops
    after = _undone(rest, first.out_spec(fed))
    return [(*lead, *after, one) for one in _inverse(first, fed)]


def _undone(ops: Iterable[Op], spec: TensorSpec) -> tuple[Op, ...]:
    """Return the ops that undo `ops`, the last first; casts are left out, as everything keeps the model's element types."""
    back: list[Op] = []
    for op in ops:
        if not isinstance(op, Cast):
            back += _inverse(op, [spec])
        spec = op.out_spec([spec])
    return tuple(reversed(back))


def _inverse(op: Op, specs: Sequence[TensorSpec]) -> Sequence[Op]:
    try:
        return op.inverse(specs)
    except UsageError as error:
        raise _NoWayBackError(f"what was done to it can't be undone ({op.describe()})") from error


_Cut = SliceDim | SelectRows | Index


class _Split(NamedTuple):
    """Ops in three: those before the first that leaves a part of its input out, that one, and those behind it."""

    before: tuple[Op, ...]
    cut: _Cut | None
    rest: tuple[Op, ...]


def _split(ops: Sequence[Op], spec: TensorSpec) -> _Split:
    for at, op in enumerate(ops):
        if isinstance(op, (SliceDim, Index)) or (isinstance(op, SelectRows) and not _permutes(op, spec.shape[op.dim])):
            return _Split(tuple(ops[:at]), op, tuple(ops[at + 1 :]))
        spec = op.out_spec([spec])
    return _Split(tuple(ops), None, ())


def _permutes(op: SelectRows, size: int) -> bool:
    return len(op.indices) == size == len(set(op.indices))


def _kept(cut: _Cut) -> Sequence[int]:
    """Return which indices along its dimension an op keeps."""
    if isinstance(cut, SliceDim):
        return range(cut.start, cut.stop)
    return cut.indices if isinstance(cut, SelectRows) else (cut.i,)


class _CutPart(NamedTuple):
    """A part, how it was cut out, and what was done to it then."""

    part: _Part
    cut: _Cut
    rest: tuple[Op, ...]


# A part with the ops that make it what it was when it was cut out; all of them, and the ops that join them.
_Fed = tuple[_Part, tuple[Op, ...]]
_Joined = tuple[list[_Fed], tuple[Op, ...]]


def _put_together(spec: TensorSpec, parts: Sequence[_Part]) -> Output:
    """Return what makes a tensor of the checkpoint from all its parts."""
    kinds = sorted({str(part.slot.dtype) for part in parts})
    if len(kinds) > 1:
        raise _NoWayBackError(f"its parts have several element types in the model: {', '.join(kinds)}")
    splits = [_split(part.own, spec) for part in parts]
    before = splits[0].before
    cut_parts = [_CutPart(part, one.cut, one.rest) for part, one in zip(parts, splits, strict=True) if one.cut]
    feeds: list[_Fed] = [(parts[0], ())]
    ops: tuple[Op, ...] = ()
    if len(parts) > 1 and len(cut_parts) < len(parts):
        names = listed([part.slot.name for part in parts], SHOWN)
        raise _NoWayBackError(f"several tensors of the model were made of it, and may differ by now: {names}")
    if cut_parts:
        if any(one.before != before for one in splits):
            raise _NoWayBackError(SCATTERED)
        whole = reduce(_after, before, spec)
        feeds, ops = _side_by_side(whole, cut_parts) or _end_to_end(whole, cut_parts)
    return Output(
        spec=TensorSpec(spec.name, spec.shape, parts[0].slot.dtype),
        feeds=tuple([Feed(part.slot.name, (*part.back, *more)) for part, more in feeds]),
        ops=(*ops, *_undone(before, spec)),
    )


def _side_by_side(whole: TensorSpec, parts: Sequence[_CutPart]) -> _Joined | None:
    """Return parts of one dimension in order, and the ops that join them; None where one was cut several times."""
    cuts = [one.cut for one in parts]
    if len({(cut.dim, isinstance(cut, Index)) for cut in cuts}) > 1:
        raise _NoWayBackError(SCATTERED)
    if any(_split(one.rest, one.cut.out_spec([whole])).cut for one in parts):
        return None
    dim, size = cuts[0].dim, whole.shape[cuts[0].dim]
    ordered = sorted(parts, key=lambda one: tuple(_kept(one.cut)[:1]))
    kept = list(chain.from_iterable([_kept(one.cut) for one in ordered]))
    if len(set(kept)) < len(kept):
        raise _NoWayBackError(TWICE)
    if len(kept) < size:
        what = "rows" if dim == 0 else f"indices along dim {dim}"
        raise _NoWayBackError(f"the model has {len(kept)} of its {size} {what}")
    feeds = [(one.part, _undone(one.rest, one.cut.out_spec([whole]))) for one in ordered]
    ops: list[Op] = [Stack(dim)] if isinstance(cuts[0], Index) else [Concat(dim)] if len(feeds) > 1 else []
    if kept != sorted(kept):
        ops.append(SelectRows(dim, tuple(inverse_permutation(kept))))
    return feeds, tuple(ops)


def _end_to_end(whole: TensorSpec, parts: Sequence[_CutPart]) -> _Joined:
    """Return parts that were cut several times, each an uninterrupted run of elements, one behind the other."""
    runs = [_run(whole, one) for one in parts]
    order = sorted(range(len(parts)), key=lambda at: runs[at][0].start)
    starts = [*(runs[at][0].start for at in order), whole.numel]
    ends = list(accumulate([runs[at][0].size for at in order], initial=0))
    if any(start < end for start, end in zip(starts, ends, strict=True)):
        raise _NoWayBackError(TWICE)
    if starts != ends:
        raise _NoWayBackError(f"the model has {ends[-1]} of its {whole.numel} elements")
    return [(parts[at].part, runs[at][1]) for at in order], (Concat(0), Reshape(whole.shape))


def _run(whole: TensorSpec, part: _CutPart) -> tuple[Run, tuple[Op, ...]]:
    """Return which elements of the whole a part is, and the ops that make them of it."""
    runs: list[Run] | None = [Run(0, 0, whole.numel)]
    spec, ops = whole, (part.cut, *part.rest)
    while (found := _split(ops, spec)).cut and not found.before and runs:
        runs, spec, ops = found.cut.runs([spec], [runs]), found.cut.out_spec([spec]), found.rest
    if found.cut or not runs or len(runs) > 1:
        raise _NoWayBackError(SCATTERED)
    return runs[0], (*_undone(ops, spec), Reshape((spec.numel,)))


def _after(spec: TensorSpec, op: Op) -> TensorSpec:
    return op.out_spec([spec])
