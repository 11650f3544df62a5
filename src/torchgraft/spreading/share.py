"""From the plan for a whole model to the plan for what one process holds of it: the boxes of source tensors that it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torchgraft.core.errors import UsageError
from torchgraft.core.grounds import Ground
from torchgraft.core.places import Walk, is_spread, places
from torchgraft.core.plan import Feed, Op, Rows, Step, Why
from torchgraft.core.specs import Source, TensorSpec
from torchgraft.core.types import Module, ScalarType, Tensor
from torchgraft.ops import Constant, SelectRows, run_ops, run_step, step_specs
from torchgraft.spreading.boxes import Box, pull
from torchgraft.spreading.collective import Collective
from torchgraft.spreading.processes import Share
from torchgraft.spreading.slices import MADE, SlicedSource

EMPTY = Why(Ground.SHARD, "this process holds no part of it")

Specs = Mapping[tuple[str, str], TensorSpec]  # of source tensors, by (network, key)


@dataclass(frozen=True, slots=True)
class _Task:
    """A step, this process's box of its slot, and which rows of the box it writes."""

    step: Step
    box: Box
    rows: Rows | None
    positions: tuple[int, ...]

    @property
    def ops(self) -> tuple[Op, ...]:
        """The ops of the step, followed by a choice among the rows that it fills."""
        rows = self.step.rows
        return self.step.ops if rows is None else (*self.step.ops, SelectRows(rows.dim, self.positions))

    @property
    def wanted(self) -> Box:
        """The box of the step's result, behind `ops`."""
        if self.rows is None:
            return self.box
        return self.box.along(self.rows.dim, 0, len(self.rows.indices))

    def part(self, specs: Specs) -> _Part | None:
        """Return what makes `wanted`, see `part_of`."""
        return part_of(replace(self.step, ops=self.ops, rows=None), specs, self.wanted)


def share(group: Collective, model: Module, whole: Share) -> Share:
    """Return what this process has to do of what is to be done to the `whole` model. Collective.

    A step is cut down to the boxes of source tensors that it needs here. Where that can't be, one process makes the
    whole tensor and sends it to all, which keep their part: one such tensor is in memory at a time.

    Raises:
        PlanRefusedError: the plan holds objections.
        UsageError: a tensor is spread in a way that is not boxes.
        CheckpointError: a tensor that must be made whole can't be read.
    """
    plan, source = whole.plan, whole.source
    plan.raise_if_refused()
    specs, sliced = _specs(source), SlicedSource(source)
    tensors = {place.name: place.tensor for place in places(model)}
    tasks = group.in_all(lambda: [_task(step, tensors[step.slot.name]) for step in plan.steps])
    parts = group.in_all(lambda: [task.part(specs) for task in tasks])
    uncut = group.all_reduce_max([int(part is None and _reads(task)) for task, part in zip(tasks, parts, strict=True)])
    steps = []
    for number, (task, part) in enumerate(zip(tasks, parts, strict=True)):
        if uncut[number]:
            value = _made_whole(group, number % group.size, task, tensors, source, specs)
            sliced.keep(task.step.slot.name, value)
            steps.append(_local(task, (Feed(task.step.slot.name, (), MADE),), ()))
        else:
            steps.append(_own(task, part, sliced))
    return _share_of(whole, steps, sliced)


def share_here(model: Walk, whole: Share) -> tuple[Share, int]:
    """Return what this process will have to do, and the bytes that tensors made whole take beside that.

    The others need not know, and nothing is read: what is made whole is a tensor on meta.

    Raises:
        UsageError: a tensor is spread in a way that is not boxes.
    """
    import torch

    tensors = {place.name: place.tensor for place in model.places}
    specs, sliced = _specs(whole.source), SlicedSource(whole.source)
    steps, kept, most = [], 0, 0
    for step in whole.plan.steps:
        task = _task(step, tensors[step.slot.name])
        part = task.part(specs)
        if part is not None or not _reads(task):
            steps.append(_own(task, part, sliced))
            continue
        dtype: ScalarType = getattr(torch, _result(step, specs).dtype.label)
        mine = torch.empty(task.wanted.sizes, dtype=dtype, device="meta")
        sliced.keep(step.slot.name, mine)
        steps.append(_local(task, (Feed(step.slot.name, (), MADE),), ()))
        read = sum(specs[feed.network, feed.key].nbytes for feed in step.feeds)
        kept, most = kept + mine.nbytes, max(most, read + 3 * _result(step, specs).nbytes)
    return _share_of(whole, steps, sliced), kept + most


def _specs(source: Source) -> Specs:
    return {(network.path, key): spec for network in source.networks for key, spec in network.specs.items()}


def _share_of(whole: Share, steps: Sequence[Step], sliced: SlicedSource) -> Share:
    target = replace(whole.target, slots=tuple(step.slot for step in steps))
    return Share(target, replace(whole.plan, steps=tuple(steps), source_specs={}), sliced)


def box_of(tensor: Any, name: str) -> Box:
    """Return which part of a tensor this process holds: all of an ordinary one.

    Raises:
        UsageError: it holds sums to be added up, or several boxes, or torch is too old to tell.
    """
    shape = tuple(tensor.shape)
    if not is_spread(tensor):
        return Box.whole(shape)
    if any(placement.is_partial() for placement in tensor.placements):
        raise UsageError(
            f"{name} is spread as partial sums ({tensor.placements}); only shards and replicas can be filled"
        )
    if not hasattr(tensor, "__create_chunk_list__"):  # what distributed checkpoints go by; torch 2.4 lacks it
        raise UsageError(
            f"{name} is spread over processes, and this torch doesn't tell which part is here: take a newer torch"
        )
    chunks = tensor.__create_chunk_list__()
    local = tuple(tensor.to_local().shape)
    if 0 in local:
        return Box((0,) * len(shape), local)
    if len(chunks) != 1 or tuple(chunks[0].sizes) != local:
        raise UsageError(f"{name} {list(shape)} is spread in {len(chunks)} boxes a process, which is not supported")
    return Box(tuple(chunks[0].offsets), local)


def spread_like(value: Tensor, tensor: Tensor, name: str) -> Tensor:
    """Return a tensor that every process has whole as one that is spread as `tensor` is; as it is where that isn't spread.

    Raises:
        UsageError: it has another shape, or `tensor` is spread in a way that is not boxes.
    """
    if not is_spread(tensor):
        return value
    if value.shape != tensor.shape:
        raise UsageError(
            f"{name} {list(tensor.shape)} is spread over processes, and a tensor of its state is {list(value.shape)}: how that "
            "would be spread isn't known; start this optimizer fresh"
        )
    from torch.distributed.tensor import DTensor

    box = box_of(tensor, name)
    mine = value[tuple(slice(start, start + size) for start, size in zip(box.starts, box.sizes, strict=True))]
    like: Any = tensor
    made: Tensor = DTensor.from_local(
        mine.to(like.to_local().device), like.device_mesh, like.placements, shape=tensor.shape, stride=tensor.stride()
    )
    return made


def _task(step: Step, tensor: Tensor) -> _Task:
    box = box_of(tensor, step.slot.name)
    if step.rows is None:
        return _Task(step, box, None, ())
    dim, start = step.rows.dim, box.starts[step.rows.dim]
    mine = [(p, i - start) for p, i in enumerate(step.rows.indices) if 0 <= i - start < box.sizes[dim]]
    return _Task(step, box, Rows(dim, tuple(i for _, i in mine)), tuple(p for p, _ in mine))


def _reads(task: _Task) -> bool:
    """Whether this process needs anything from the file for the step."""
    return bool(task.step.feeds or task.step.base) and task.wanted.numel > 0


def _own(task: _Task, part: _Part | None, sliced: SlicedSource) -> Step:
    """Return the local step of what this process makes alone: from its own boxes, from nothing, or not at all."""
    step = task.step
    if part is not None:
        feeds = tuple(replace(p.feed, key=sliced.add(p.feed.network, p.feed.key, p.box)) for p in part.feeds)
        return _local(task, feeds, part.ops)
    if not step.feeds and not step.ops:
        return _local(task, (), ())
    if not task.wanted.numel:
        empty = Constant(task.wanted.sizes, step.slot.spec.dtype.label, 0.0)
        return replace(_local(task, (), (empty,)), why=EMPTY)
    if len(step.ops) == 1 and isinstance(step.ops[0], Constant):
        return _local(task, (), (replace(step.ops[0], shape=task.wanted.sizes),))
    sliced.keep(step.slot.name, _cut(run_ops(task.ops, [])[0], task.wanted))
    return _local(task, (Feed(step.slot.name, (), MADE),), ())


def _local(task: _Task, feeds: tuple[Feed, ...], ops: tuple[Op, ...]) -> Step:
    slot = task.step.slot
    spec = TensorSpec(slot.name, task.box.sizes, slot.spec.dtype)
    return replace(task.step, slot=replace(slot, spec=spec), feeds=feeds, ops=ops, rows=task.rows, base=False)


def _made_whole(
    group: Collective, maker: int, task: _Task, tensors: Mapping[str, Tensor], source: Source, specs: Specs
) -> Tensor:
    """Return this process's part of a tensor that one process makes and sends to all."""
    import torch

    step = task.step
    base = [_gathered(tensors[step.slot.name])] if step.base else []
    made: list[Tensor] = []

    def make() -> None:
        if group.rank == maker:
            made.extend(run_step(step, lambda feed: source.read(feed.network, feed.key), base))

    group.in_all(make)
    if not made:
        spec = _result(step, specs)
        made.append(torch.empty(spec.shape, dtype=getattr(torch, spec.dtype.label), device="cpu"))
    whole = group.broadcast(made[0], maker)
    if task.rows is not None:
        whole = whole.index_select(task.rows.dim, torch.tensor(task.positions, dtype=torch.long, device=whole.device))
    return _cut(whole, task.wanted)


def _gathered(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if is_spread(tensor) else tensor  # type: ignore[attr-defined]
    return whole.detach().to("cpu")


def _result(step: Step, specs: Specs) -> TensorSpec:
    return step_specs(step, lambda feed: specs[feed.network, feed.key], [step.slot.spec] if step.base else [])[0]


def _cut(value: Tensor, box: Box) -> Tensor:
    for dim, (start, size) in enumerate(zip(box.starts, box.sizes, strict=True)):
        value = value.narrow(dim, start, size)
    return value.clone()


@dataclass(frozen=True, slots=True)
class _BoxFeed:
    """A box of a source tensor on its way into a part of a slot."""

    feed: Feed
    box: Box


@dataclass(frozen=True, slots=True)
class _Part:
    """What makes one process's box of a slot."""

    feeds: tuple[_BoxFeed, ...]
    ops: tuple[Op, ...]


def part_of(step: Step, specs: Specs, box: Box) -> _Part | None:
    """Return what makes `box` of what `step` computes, None where the whole must be made first.

    `specs` has the source tensors by (network, key).
    """
    if step.base or not step.feeds or not box.numel:
        return None
    chains = [_specs_along(feed.ops, specs[feed.network, feed.key]) for feed in step.feeds]
    joined = [[chain[-1] for chain in chains]]
    for op in step.ops:
        joined.append([op.out_spec(joined[-1])])
    wanted: list[Box | None] = [box]
    ops: list[Op] = []
    for op, inputs in zip(reversed(step.ops), reversed(joined[:-1]), strict=True):
        pulled = pull(op, inputs, wanted[0]) if wanted[0] is not None else None
        if pulled is None:
            return None
        wanted = list(pulled.boxes)
        ops = [*pulled.ops, *ops]
    feeds = []
    for feed, chain, want in zip(step.feeds, chains, wanted, strict=True):
        if want is not None:
            found = _box_feed(feed, chain, want)
            if found is None:
                return None
            feeds.append(found)
    return _Part(tuple(feeds), tuple(ops))


def _specs_along(ops: Sequence[Op], spec: TensorSpec) -> list[TensorSpec]:
    """Return the spec of a tensor before the ops, and after each of them."""
    out = [spec]
    for op in ops:
        out.append(op.out_spec([out[-1]]))
    return out


def _box_feed(feed: Feed, chain: Sequence[TensorSpec], box: Box) -> _BoxFeed | None:
    ops: list[Op] = []
    for op, spec in zip(reversed(feed.ops), reversed(chain[:-1]), strict=True):
        pulled = pull(op, [spec], box)
        if pulled is None or pulled.boxes[0] is None:
            return None
        box = pulled.boxes[0]
        ops = [*pulled.ops, *ops]
    return _BoxFeed(Feed(feed.key, tuple(ops), feed.network), box)
