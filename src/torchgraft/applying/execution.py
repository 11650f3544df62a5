"""A plan that is being carried out: what each step needs, in which order it is done, and how it is put back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from torchgraft.applying.batches import Batch, Batches, make_batches, split_small
from torchgraft.applying.cells import Cell, Installation, are_disjoint, expect_writable, resolve
from torchgraft.applying.chunks import Transfer
from torchgraft.applying.fill import ReadOnce, fill
from torchgraft.applying.findings import Findings
from torchgraft.applying.fresh import initialise
from torchgraft.applying.manner import Manner
from torchgraft.applying.mapping import map_slots
from torchgraft.applying.moves import Move, make_transfers, move_of, to_keep, undo_sizes, with_undo
from torchgraft.applying.pages import make_ready
from torchgraft.applying.transfers import Transfers
from torchgraft.applying.undo import Undo
from torchgraft.core.objections import Objection
from torchgraft.core.places import Walk
from torchgraft.core.plan import Plan, Step
from torchgraft.core.results.report import Check, Mapped
from torchgraft.core.specs import Source, Target
from torchgraft.core.system.progress import Ticks
from torchgraft.core.system.shield import Shield
from torchgraft.core.written import Written

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A plan that was carried out.

    `initialised` are the slots that had no values and got their module's own initial ones. `undo_bytes` is the memory
    that held the old values until the end. `notes` are findings that the policy lets pass with a word. `mapped` says
    which slots are views of the file, where that was asked for.
    """

    initialised: tuple[str, ...] = ()
    bytes_read: int = 0
    bytes_written: int = 0
    undo_bytes: int = 0
    mapped: Mapped | None = None
    checks: tuple[Check, ...] = ()
    notes: tuple[Objection, ...] = ()


class Peers(Protocol):
    """Those who fill other parts of the same model at the same time, all or none of them."""

    def ready(self) -> None:
        """Return when everybody could read all there is to read; raise where one couldn't. Nothing is lost by then."""
        ...

    def done(self) -> None:
        """Return when everybody has filled what is to be filled; raise where one couldn't."""
        ...


class Execution:
    """A load in progress: everything is looked at when it is made, and nothing is written before `carry_out`.

    Steps go three ways: small copies in batches, many at a time; other steps that only move bytes by transfers, cast or
    transposed on the way; the rest is computed, one after the other. Slots that share memory are all computed, as the last
    write wins: their old values are kept, and they are compared in full. What is mapped is filled already.
    """

    def __init__(
        self,
        model: Walk,
        target: Target,
        plan: Plan,
        source: Source,
        manner: Manner,
        device: torch.device,
    ) -> None:
        self._source = source
        self._manner = manner
        self._specs = {network.path: network.specs for network in source.networks}
        self._steps = [step for step in plan.steps if step.feeds or step.ops]  # all but fresh ones
        self._findings = Findings(plan.policy)
        self._installation = Installation()
        self._reader = ReadOnce(source)
        self.written = Written()
        to_map = _in_file_order(self._steps, source) if manner.placement.mmap else ()
        self._mapped = map_slots(model, to_map, source)
        self.written.mapped.update(self._mapped.values)
        self._find_places(model, target, device)
        self._divide()

    def _find_places(self, model: Walk, target: Target, device: torch.device) -> None:
        """Find what each slot is in the model: small tensors in bulk, each of the others as a cell."""
        tensors = {place.name: place.tensor for place in model.places}
        small, rest = split_small(self._steps, tensors, self._specs)
        names = {one.step.slot.spec.name for one in small}
        others = [slot for slot in target.slots if slot.spec.name not in names]
        cells = resolve(model, others, device, self._mapped.values)
        ranges = [(one.address, one.address + one.size) for one in small]
        self._overlapping = not are_disjoint([*ranges, *(cell.address_range for cell in cells.values())])
        if self._overlapping:
            small, rest, cells = [], self._steps, resolve(model, target.slots, device, self._mapped.values)
        self._small, self._rest, self._cells = small, rest, cells
        unusual = [(cell, step) for step in rest if not (cell := self._cell(step)).size or cell.staged]
        expect_writable((cell.places[0].tensor, step) for cell, step in unusual)

    def _divide(self) -> None:
        """Divide the steps among the three ways, and reserve memory for the old values that are to be kept."""
        rest = [step for step in self._rest if step.slot.spec.name not in self._mapped.values]
        batches = make_batches(self._small, staged=False)
        staged = {name: cell.memory for name, cell in self._cells.items() if cell.staged}
        if staged and not self._overlapping:
            new, rest = split_small(rest, staged, self._specs)
            batches += make_batches(new, staged=True)
        self._computed: list[Step] = []
        moves: list[Move] = []
        for step in _in_file_order(rest, self._source):
            move = None if self._overlapping else move_of(step, self._cell(step), self._source, self._specs)
            if move is None:
                self._computed.append(step)
            else:
                moves.append(move)
        overwritten = [cell.value for cell in map(self._cell, self._computed) if not cell.staged]
        way = self._manner.undo
        kept = to_keep([*batches, *moves], way)
        self._undo = Undo(overwritten, undo_sizes(kept))
        self._to_transfer = make_transfers(moves, kept, self._undo, way, self.written)
        self._to_batch = with_undo(batches, kept, self._undo, way)
        moved: list[Transfer | Batch] = [*self._to_transfer, *self._to_batch]
        self._bytes_read = sum([one.size for one in moved]) + sum(map(self._input_size, self._computed))
        self._bytes_written = sum([batch.size for batch in batches]) + sum(map(_written_size, rest))
        again = sum([one.size for one in moved if one.read_twice])
        populated = self._mapped.size if self._manner.placement.prefault else 0
        self._ticks = Ticks(self._manner.progress, self._bytes_read + again + populated)
        self._transfers = Transfers(self._source, self._undo, self._findings, self.written, self._ticks.tick)
        self._batches = Batches(self._source, self._undo, self._findings, self.written, self._ticks.tick)

    def carry_out(
        self, model: Walk, shield: Shield, peers: Peers | None
    ) -> tuple[tuple[Objection, ...], tuple[str, ...]]:
        """Initialise, fill, refuse what values say against it, and put new tensors in; return notes and initialised slots."""
        initialised = initialise(model, self._cells, self._steps, self._manner.constructor)
        # with undo="none" there is no way back: signals wait
        between = shield.deliver if self._manner.undo != "none" else lambda: None
        self._transfers.start(self._to_transfer)
        for step in self._computed:
            self._compute(step)
            between()
        self._batches.take(self._to_batch, between)
        self._transfers.finish(between)
        if self._manner.placement.prefault:
            make_ready(self._mapped.ranges(), self._ticks.tick, between)
        self._look_at_fresh_buffers()
        self._look_at_changed()
        notes = self._findings.raise_if_refused()
        for cell in self._cells.values():
            if cell.staged:
                self._installation.install(cell)
        if peers:
            peers.ready()
        self._batches.begin()
        self._transfers.write()
        self._batches.write()
        return notes, initialised

    @property
    def begun(self) -> list[Transfer | Batch]:
        """What is being written without a way back."""
        return [*self._batches.begun, *self._transfers.begun]

    def _look_at_fresh_buffers(self) -> None:
        """Note buffers that keep their values, and have no finite one."""
        import torch

        filled = {step.slot.spec.name for step in self._rest}
        for cell in [cell for name, cell in self._cells.items() if name not in filled]:
            slot = cell.slot
            if not (slot.is_buffer and slot.persistent and slot.spec.numel):
                continue
            value = cell.value
            if value.layout is torch.strided and value.is_floating_point() and bool(value.isinf().all()):
                self._findings.infinite(slot, "stays as it was, and holds nothing but infinite values")

    def _look_at_changed(self) -> None:
        """Note slots that were to stay fresh, and share memory with ones that were filled."""
        if not self._overlapping:
            return
        filled = [step.slot.spec.name for step in self._steps]
        starts, stops = np.array([self._cells[name].address_range for name in filled], np.uint64).reshape(-1, 2).T
        for name in self._cells.keys() - set(filled):
            start, stop = self._cells[name].address_range
            if others := [filled[at] for at in np.flatnonzero((starts < stop) & (stops > start))]:
                self._findings.changed_along(self._cells[name].slot, others)

    def _compute(self, step: Step) -> None:
        cell = self._cell(step)
        try:
            if not cell.staged:
                self._undo.keep(cell.value)
            self.written.digests[step.slot.name] = fill(step, cell.value, self._reader, self._findings)
        except Exception as error:
            error.add_note(step.slot.name)
            raise
        self._ticks.tick(self._input_size(step))

    def _cell(self, step: Step) -> Cell:
        return self._cells[step.slot.spec.name]

    def _input_size(self, step: Step) -> int:
        return sum(self._specs[feed.network][feed.key].nbytes for feed in step.feeds)

    def roll_back(self) -> list[str]:
        """Put everything back, once no helper writes any more; return the slots whose old values are gone.

        Those get NaN, or zero where the type has none, so that none of them passes for a weight.
        """
        self._transfers.stop()
        self._installation.undo()
        refused = {id(tensor) for tensor in self._undo.restore()}
        for one in self.begun:
            one.invalidate()
        lost = {name for one in self.begun for name in one.names}
        if refused:
            lost |= {name for name, cell in self._cells.items() if id(cell.value) in refused}
        return [name for step in self._steps if (name := step.slot.spec.name) in lost]

    def mark_changed(self) -> None:
        """Tell autograd that the values changed, as a copy in place would have."""
        import torch

        real = [cell.places for step in self._rest if not (cell := self._cell(step)).staged]
        changed = [*(place.tensor for places in real for place in places), *(one.tensor for one in self._small)]
        try:
            torch.autograd.graph.increment_version(changed)
        except RuntimeError:  # older ones, such as 2.4, take one tensor at a time
            for tensor in changed:
                torch.autograd.graph.increment_version(tensor)
        torch.clear_autocast_cache()  # a caller's autocast would go on with 16-bit copies of the old values

    def applied(self, checks: tuple[Check, ...], notes: tuple[Objection, ...], initialised: tuple[str, ...]) -> Applied:
        """Return the result."""
        return Applied(
            initialised=initialised,
            bytes_read=self._bytes_read,
            bytes_written=self._bytes_written,
            mapped=self._mapped.summary(prefaulted=self._manner.placement.prefault)
            if self._manner.placement.mmap
            else None,
            undo_bytes=self._undo.size,
            checks=checks,
            notes=notes,
        )


def _written_size(step: Step) -> int:
    return step.filled * step.slot.spec.dtype.itemsize


def _in_file_order(steps: Sequence[Step], source: Source) -> list[Step]:
    """Return the steps in the order in which their first inputs lie in the file."""
    first = (-1, -1)
    return sorted(steps, key=lambda s: source.position(s.feeds[0].network, s.feeds[0].key) if s.feeds else first)
