"""Steps that only move elements, as the stretches of the file that go into stretches of the slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torchgraft.applying.batches import Batch
from torchgraft.applying.cells import Cell
from torchgraft.applying.chunks import TRANSPOSED, Transfer
from torchgraft.applying.memory import NOTHING, bytes_at
from torchgraft.applying.undo import KEPT, Undo
from torchgraft.core.choices import UndoWay
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Action, Step
from torchgraft.core.specs import Source, TensorSpec
from torchgraft.core.written import Written
from torchgraft.ops import BaseOp
from torchgraft.ops.exact import Transpose
from torchgraft.ops.runs import Run, joined, picked

if TYPE_CHECKING:
    import torch


FEW = 64
INTEGERS = (1, 2, 4, 8)  # sizes of elements that there are integers of, to move them by
WORTH = 16 << 10


class Segment(NamedTuple):
    """`size` bytes of one source tensor, from `start` on, that go to byte `at` of the slot, cast on the way if need be."""

    network: str
    key: str
    start: int
    at: int
    size: int


def segments(step: Step, source: Source, specs: Mapping[str, Mapping[str, TensorSpec]]) -> tuple[Segment, ...] | None:
    """Return what the step moves, in the order of the slot; None where it does more than that.

    Bytes of a bool may be anything, so those are no such step. Many short stretches are no gain over reading all of it.
    """
    slot = step.slot.spec
    if step.base or not step.feeds or slot.dtype is DType.BOOL:
        return None
    if step.action is Action.COPY:
        only = step.feeds[0]
        spec = specs[only.network][only.key]
        fits = spec.shape == slot.shape and spec.dtype is not DType.BOOL
        return (Segment(only.network, only.key, 0, 0, spec.nbytes),) if fits else None
    given = [specs[feed.network][feed.key] for feed in step.feeds]
    dtype = given[0].dtype
    if dtype is DType.BOOL or any(spec.dtype is not dtype for spec in given):
        return None
    if not all(source.divisible(feed.network, feed.key) for feed in step.feeds):
        return None
    runs = _result(step, given)
    places = _places(step)
    if runs is None or places is None or sum(run.size for run in runs) != sum(run.size for run in places):
        return None
    unit, wide = dtype.itemsize, slot.dtype.itemsize
    found = tuple(
        Segment(
            step.feeds[run.source].network, step.feeds[run.source].key, run.start * unit, at * wide, run.size * unit
        )
        for run, at in _laid(runs, places)
    )
    small = len(found) > FEW and sum(s.size for s in found) < WORTH * len(found)
    return None if small else found


def transposed(step: Step, source: Source, specs: Mapping[str, Mapping[str, TensorSpec]]) -> Segment | None:
    """Return the matrix that becomes the whole slot once it is transposed; None where the step does more, or a row is too long."""
    slot = step.slot.spec
    ops = [op for feed in step.feeds for op in feed.ops] + list(step.ops)
    if step.base or step.rows or len(step.feeds) != 1 or len(ops) != 1 or not isinstance(ops[0], Transpose):
        return None
    feed = step.feeds[0]
    given = specs[feed.network][feed.key]
    unit = slot.dtype.itemsize
    if given.dtype is not slot.dtype or slot.dtype is DType.BOOL or given.shape[::-1] != slot.shape:
        return None
    fits = unit in INTEGERS and 0 < given.shape[1] * unit <= TRANSPOSED and given.shape[0] > 0
    return (
        Segment(feed.network, feed.key, 0, 0, given.nbytes)
        if fits and source.divisible(feed.network, feed.key)
        else None
    )


def _result(step: Step, given: Sequence[TensorSpec]) -> list[Run] | None:
    """Return the result of all ops as runs of the feeds' elements."""
    specs: list[TensorSpec] = []
    runs: list[Sequence[Run]] = []
    for number, (feed, spec) in enumerate(zip(step.feeds, given, strict=True)):
        done = _through(feed.ops, [spec], [[Run(number, 0, spec.numel)]])
        if done is None:
            return None
        specs.append(done[0])
        runs.append(done[1])
    done = _through(step.ops, specs, runs)
    return done[1] if done else None


def _through(
    ops: Sequence[Any], specs: list[TensorSpec], runs: list[Sequence[Run]]
) -> tuple[TensorSpec, list[Run]] | None:
    """Return spec and runs of what comes out of `ops`, the first of which takes all of `runs`."""
    for op in ops:
        moved = op.runs(specs, runs) if isinstance(op, BaseOp) else None
        if moved is None:
            return None
        specs, runs = [op.out_spec(specs)], [moved]
    return (specs[0], list(runs[0])) if len(runs) == 1 else None


def _places(step: Step) -> list[Run] | None:
    """Return the runs of the slot that the step writes."""
    slot = step.slot.spec
    whole = [Run(0, 0, slot.numel)]
    return whole if step.rows is None else picked(slot.shape, step.rows.dim, step.rows.indices, whole)


def _laid(runs: Sequence[Run], places: Sequence[Run]) -> list[tuple[Run, int]]:
    """Return each stretch that is whole on both sides, with the element of the slot where it goes."""
    out: list[tuple[Run, int]] = []
    left = list(reversed(joined([runs])))
    for place in places:
        at, end = place.start, place.start + place.size
        while at < end:
            run = left.pop()
            size = min(run.size, end - at)
            out.append((Run(run.source, run.start, size), at))
            if size < run.size:
                left.append(Run(run.source, run.start + size, run.size - size))
            at += size
    return out


class Move(NamedTuple):
    """A step that moves `segments` into `value`, cast from the type `given` if that is another one.

    `old` is how many bytes of old values there are: none on meta. `on_device`: they go to a device. `row`: as in a Transfer.
    """

    step: Step
    value: torch.Tensor
    segments: tuple[Segment, ...]
    given: DType | None
    old: int
    on_device: bool = False
    row: int = 0


def move_of(step: Step, cell: Cell, source: Source, specs: Mapping[str, Mapping[str, TensorSpec]]) -> Move | None:
    """Return what a step moves; None where it does more than that. The memory of its slot must be no other's."""
    value = cell.value
    if not (cell.plain or cell.on_device) or not value.is_contiguous():
        return None
    old = 0 if cell.staged else value.nbytes
    found = segments(step, source, specs)
    if found is None:
        whole = transposed(step, source, specs) if cell.plain else None
        return Move(step, value, (whole,), None, old, row=_row(step)) if whole else None
    feed = step.feeds[0]
    dtype = specs[feed.network][feed.key].dtype
    given = None if dtype is cell.slot.spec.dtype else dtype
    if given and cell.on_device:
        return None
    return Move(step, value, found, given, old, cell.on_device)


def _row(step: Step) -> int:
    """Return the bytes of a row of the matrix that is transposed: it becomes a column of the slot."""
    slot = step.slot.spec
    return slot.shape[0] * slot.dtype.itemsize


def to_keep(moves: Sequence[Move | Batch], way: UndoWay) -> list[Move | Batch]:
    """Return the moves whose old values are kept: all, none, or as many as fit into KEPT bytes, the smallest first."""
    real = [move for move in moves if move.old]
    if way == "keep":
        return real
    found: list[Move | Batch] = []
    left = KEPT if way == "auto" else 0
    for move in sorted(real, key=lambda move: move.old):
        left -= move.old
        if left < 0:
            break
        found.append(move)
    return found


def undo_sizes(keeps: Sequence[Move | Batch]) -> list[int]:
    """Return how much memory old values need that are kept as they are overwritten."""
    return [one.old for one in keeps if not (isinstance(one, Move) and one.on_device)]


def make_transfers(
    moves: Sequence[Move], keeps: Sequence[Move | Batch], undo: Undo, way: UndoWay, written: Written
) -> list[Transfer]:
    """Return how each is filled: with room for its old values, in two readings, or at once if it has none to lose.

    Old values that are to be kept and are not overwritten from front to end, or are a device's, are kept here.
    """
    held = {move.step.slot.name for move in keeps if isinstance(move, Move)}
    out: list[Transfer] = []
    for step, value, found, given, old, on_device, row in moves:
        name, undo_address = step.slot.name, 0
        if name in held and (on_device or row):
            undo.keep(value)
        elif name in held:
            undo_address = undo.reserve(old)
        loose = old > 0 and name not in held
        samples = written.samples[name] = []
        size = found[0].size if len(found) == 1 else sum([segment.size for segment in found])
        read_twice, unprotected = loose and way != "none", loose and way == "none"
        data = NOTHING if on_device else bytes_at(value)
        out.append(
            Transfer(
                step, value, data, found, size, samples, undo_address, read_twice, unprotected, given, on_device, row
            )
        )
    return out


def with_undo(batches: Sequence[Batch], keeps: Sequence[Move | Batch], undo: Undo, way: UndoWay) -> list[Batch]:
    """Return batches as they are to be filled: with room for their old values, in two readings, or at once, as transfers."""
    held = {id(one) for one in keeps}

    def one_with_undo(batch: Batch) -> Batch:
        if batch.staged:
            return batch
        if id(batch) in held:
            return batch._replace(undo_address=undo.reserve(batch.old))
        return batch._replace(read_twice=way != "none", unprotected=way == "none")

    return [one_with_undo(batch) for batch in batches]
