"""Which steps only move bytes, perhaps through a cast, and what becomes of the old values of their slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.applying.batches import Batch
from torchgraft.applying.cells import Cell
from torchgraft.applying.chunks import Transfer
from torchgraft.applying.memory import NOTHING, bytes_at
from torchgraft.applying.segments import Segment, segments, turned
from torchgraft.applying.undo import AUTO, KEEP, KEPT, NONE, Undo
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Step
from torchgraft.core.specs import Source, TensorSpec
from torchgraft.core.written import Written

if TYPE_CHECKING:
    import torch


class Move(NamedTuple):
    """A step that moves `segments` into `value`, cast from the type `given` if that is another one.

    `old` is how many bytes of old values there are: none on meta. `away`: they go to a device. `row`: as in a Transfer.
    """

    step: Step
    value: torch.Tensor
    segments: tuple[Segment, ...]
    given: DType | None
    old: int
    away: bool = False
    row: int = 0


def move_of(step: Step, cell: Cell, source: Source, specs: Mapping[str, Mapping[str, TensorSpec]]) -> Move | None:
    """Return what a step moves; None where it does more than that. The memory of its slot must be no other's."""
    value = cell.value
    if not (cell.plain or cell.away) or not value.is_contiguous():
        return None
    old = 0 if cell.staged else value.nbytes
    found = segments(step, source, specs)
    if found is None:
        whole = turned(step, source, specs) if cell.plain else None
        return Move(step, value, (whole,), None, old, row=_row(step)) if whole else None
    feed = step.feeds[0]
    dtype = specs[feed.network][feed.key].dtype
    given = None if dtype is cell.slot.spec.dtype else dtype
    if given and cell.away:
        return None
    return Move(step, value, found, given, old, cell.away)


def _row(step: Step) -> int:
    """Return the bytes of a row of the matrix that is turned: it becomes a column of the slot."""
    slot = step.slot.spec
    return slot.shape[0] * slot.dtype.itemsize


def kept(moves: Sequence[Move | Batch], way: str) -> list[Move | Batch]:
    """Return those whose old values are kept: all, none, or as many as fit into KEPT bytes, the smallest first."""
    real = [move for move in moves if move.old]
    if way == KEEP:
        return real
    found: list[Move | Batch] = []
    left = KEPT if way == AUTO else 0
    for move in sorted(real, key=lambda move: move.old):
        left -= move.old
        if left < 0:
            break
        found.append(move)
    return found


def rooms(keeps: Sequence[Move | Batch]) -> list[int]:
    """Return how much memory old values need that are kept as they are overwritten."""
    return [one.old for one in keeps if not (isinstance(one, Move) and one.away)]


def transfers(
    moves: Sequence[Move], keeps: Sequence[Move | Batch], undo: Undo, way: str, written: Written
) -> list[Transfer]:
    """Return how each is filled: with room for its old values, in two readings, or at once if it has none to lose.

    Old values that are to be kept and are not overwritten from front to end, or are a device's, are kept here.
    """
    held = {move.step.slot.name for move in keeps if isinstance(move, Move)}
    out: list[Transfer] = []
    for step, value, found, given, old, away, row in moves:
        name, room = step.slot.name, 0
        if name in held and (away or row):
            undo.keep(value)
        elif name in held:
            room = undo.reserve(old)
        loose = old > 0 and name not in held
        samples = written.samples[name] = []
        size = found[0].size if len(found) == 1 else sum([segment.size for segment in found])
        proves, bare = loose and way != NONE, loose and way == NONE
        data = NOTHING if away else bytes_at(value)
        out.append(Transfer(step, value, data, found, size, samples, room, proves, bare, given, away, row))
    return out


def settled(batches: Sequence[Batch], keeps: Sequence[Move | Batch], undo: Undo, way: str) -> list[Batch]:
    """Return batches as they are to be filled: with room for their old values, in two readings, or at once, as transfers."""
    held = {id(one) for one in keeps}

    def settle(batch: Batch) -> Batch:
        if batch.staged:
            return batch
        if id(batch) in held:
            return batch._replace(room=undo.reserve(batch.old))
        return batch._replace(proves=way != NONE, bare=way == NONE)

    return [settle(batch) for batch in batches]
