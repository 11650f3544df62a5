"""All or nothing: the order of events, and the way back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from torchgraft.applying.alone import alone
from torchgraft.applying.batches import Batch, Batches, Small, batched, picked
from torchgraft.applying.cells import Cell, Installation, apart, expect_writable, resolve
from torchgraft.applying.chunks import Transfer
from torchgraft.applying.fill import ReadOnce, fill
from torchgraft.applying.findings import Findings
from torchgraft.applying.fresh import initialise
from torchgraft.applying.mapping import Home, MappedSlots, map_slots
from torchgraft.applying.moves import kept, move_of, rooms, settled, transfers
from torchgraft.applying.pages import make_ready
from torchgraft.applying.result import Applied
from torchgraft.applying.transfers import Transfers
from torchgraft.applying.undo import NONE, Undo, check_undo
from torchgraft.core.errors import (
    MAX_MESSAGE,
    ApplyError,
    CheckpointError,
    ModelLostError,
    PlanRefusedError,
    TorchgraftError,
    printable,
)
from torchgraft.core.places import Walk, walk_of
from torchgraft.core.plan import Objection, Plan, Step
from torchgraft.core.results.report import Check
from torchgraft.core.specs import Slot, Source, Target, TensorSpec
from torchgraft.core.system.progress import Ticks
from torchgraft.core.system.shield import Shield
from torchgraft.core.written import Written

if TYPE_CHECKING:
    import torch
    from torch import nn


HOME = Home()


class Verifier(Protocol):
    """Compares what lies in the model with what it should have got."""

    def __call__(self, model: nn.Module | Walk, plan: Plan, written: Written) -> Sequence[Check]:
        """Return the checks, passed or failed."""
        ...


class Others(Protocol):
    """Those who fill other parts of the same model at the same time, all or none of them."""

    def ready(self) -> None:
        """Return when everybody could read all there is to read; raise where one couldn't. Nothing is lost by then."""
        ...

    def done(self) -> None:
        """Return when everybody has filled what is to be filled; raise where one couldn't."""
        ...


class Nobody:
    """Nobody else fills the model."""

    def ready(self) -> None:
        """Return at once."""

    def done(self) -> None:
        """Return at once."""


NOBODY = Nobody()


def apply(  # noqa: PLR0913  # what a load is made of; all but four by name
    model: nn.Module | Walk,
    target: Target,
    plan: Plan,
    source: Source,
    *,
    verify: Verifier | None = None,
    home: Home = HOME,
    undo: str = "auto",
    others: Others = NOBODY,
    progress: Callable[[int, int], None] | None = None,
) -> Applied:
    """Fill `model` by `plan`, or leave it exactly as it was.

    Tensors on the meta device come to life in `home`: in memory of their own on the CPU by default. `verify` runs inside
    the transaction.
    `others` are asked before anything is written that could not be put back, and at the end. `progress` hears bytes read
    and to be read, from any thread, one call at a time.
    Extra memory: one tensor per step that computes, and the old values that `undo` asks to keep; see `load`.

    Raises:
        UsageError: `undo` is none of UNDO, `home` contradicts itself or the model, a tensor of the model can't be written to,
            or another load fills it.
        PlanRefusedError: the plan holds objections, or the values do (NaN, overflow); all at once.
        CheckpointError: the checkpoint can't be read to its end.
        ApplyError: anything else went wrong. In all these cases the model is unchanged.
        ModelLostError: the checkpoint failed where old values were no longer kept, which `undo="keep"` excludes.
    """
    import torch

    check_undo(undo)
    seen = walk_of(model)
    where = home.checked(seen)
    plan.raise_if_refused()
    # In this order: a signal must not leave gradients off. What is made in inference mode could not be trained later.
    with Shield() as shield, torch.inference_mode(mode=False), torch.no_grad(), alone(seen.places):
        try:
            work = _prepared(seen, target, plan, source, home=home, where=where, undo=undo, progress=progress)
        except TorchgraftError:
            raise
        except Exception as error:  # no memory, say, or no such device in this machine
            raise ApplyError(f"{_said(error)}; nothing was written yet") from error
        random = torch.get_rng_state()
        try:
            notes, initialised = work.carry_out(seen, shield, others)
            checks = tuple(verify(seen, plan, work.written)) if verify else ()
            _raise_if_failed(checks)
            if not work.begun:
                shield.deliver()
            others.done()
        except BaseException as error:
            lost = work.roll_back()
            torch.set_rng_state(random)
            if (named := _lost(lost, error) if lost else _translated(error)) is not error:
                raise named from error
            raise
        work.mark_changed()
        return work.applied(checks, notes, initialised)


def _prepared(  # noqa: PLR0913  # what apply() was given
    model: Walk,
    target: Target,
    plan: Plan,
    source: Source,
    *,
    home: Home,
    where: torch.device,
    undo: str,
    progress: Callable[[int, int], None] | None,
) -> _Work:
    """Return the load that is to be carried out, everything looked at and nothing written yet."""
    steps = [step for step in plan.steps if step.feeds or step.ops]  # all but fresh ones
    mapped = map_slots(model, _in_file_order(steps, source), source) if home.mmap else MappedSlots()
    specs = {network.path: network.specs for network in source.networks}
    tensors = {place.name: place.tensor for place in model.places}
    small, rest = picked(steps, tensors, specs)
    cells = resolve(model, _others(target.slots, small), where, mapped.values)
    overlapping = not apart([*map(_reach, small), *(cell.reach for cell in cells.values())])
    if overlapping:
        small, rest, cells = [], steps, resolve(model, target.slots, where, mapped.values)
    odd = [(cell, step) for step in rest if not (cell := cells[step.slot.spec.name]).size or cell.staged]
    expect_writable((cell.places[0].tensor, step) for cell, step in odd)
    findings = Findings(plan.policy)
    return _Work(cells, steps, small, rest, source, specs, findings, undo, home, mapped, overlapping, progress)


@dataclass(slots=True)
class _Work:
    """A load in progress.

    `picked` are small slots that are copied many at a time, `rest` the other steps, whose `cells` are those of all others:
    `direct` are filled by reading, and by a cast at most, `others` are computed. `overlapping`: some slots share memory, so
    that the last write wins: all are filled the careful way, one after the other, their old values kept, and compared in
    full. What is `mapped` is filled already.
    """

    cells: Mapping[str, Cell]
    steps: Sequence[Step]
    picked: Sequence[Small]
    rest: Sequence[Step]
    source: Source
    specs: Mapping[str, Mapping[str, TensorSpec]]
    findings: Findings
    way: str
    home: Home
    mapped: MappedSlots
    overlapping: bool
    progress: Callable[[int, int], None] | None = None
    written: Written = field(default_factory=Written)
    undo: Undo = field(init=False)
    transfers: Transfers = field(init=False)
    batches: Batches = field(init=False)
    reader: ReadOnce = field(init=False)
    ticks: Ticks = field(init=False)
    direct: list[Transfer] = field(init=False)
    small: list[Batch] = field(init=False)
    others: list[Step] = field(default_factory=list)
    installation: Installation = field(default_factory=Installation)
    read: int = field(init=False)
    filled: int = field(init=False)

    def __post_init__(self) -> None:
        rest = [step for step in self.rest if step.slot.spec.name not in self.mapped.values]
        small = batched(self.picked, staged=False)
        staged = {name: cell.memory for name, cell in self.cells.items() if cell.staged}
        if staged and not self.overlapping:
            new, rest = picked(rest, staged, self.specs)
            small += batched(new, staged=True)
        moves = []
        for step in _in_file_order(rest, self.source):
            move = None if self.overlapping else move_of(step, self._cell(step), self.source, self.specs)
            if move is None:
                self.others.append(step)
            else:
                moves.append(move)
        changed = [cell.value for cell in map(self._cell, self.others) if not cell.staged]
        keeps = kept([*small, *moves], self.way)
        self.undo = Undo(changed, rooms(keeps))
        self.direct = transfers(moves, keeps, self.undo, self.way, self.written)
        self.small = settled(small, keeps, self.undo, self.way)
        moved: list[Transfer | Batch] = [*self.direct, *self.small]
        self.read = sum([one.size for one in moved]) + sum(map(self._fed, self.others))
        self.reader = ReadOnce(self.source)
        self.written.mapped.update(self.mapped.values)
        self.filled = sum([batch.size for batch in small]) + sum(map(_filled, rest))
        again = sum([one.size for one in moved if one.proves])
        self.ticks = Ticks(self.progress, self.read + again + (self.mapped.size if self.home.prefault else 0))
        self.transfers = Transfers(self.source, self.undo, self.findings, self.written, self.ticks.tick)
        self.batches = Batches(self.source, self.undo, self.findings, self.written, self.ticks.tick)

    def _cell(self, step: Step) -> Cell:
        return self.cells[step.slot.name]

    def carry_out(self, model: Walk, shield: Shield, others: Others) -> tuple[tuple[Objection, ...], tuple[str, ...]]:
        """Initialise, fill, settle what the values say, and put new tensors in; return notes and initialised slots."""
        initialised = initialise(model, self.cells, self.steps)
        deliver = shield.deliver if self.way != NONE else _wait
        self.transfers.start(self.direct)
        for step in self.others:
            self._fill(step)
            deliver()
        self.batches.take(self.small, deliver)
        self.transfers.finish(deliver)
        if self.home.prefault:
            make_ready(self.mapped.ranges(), self.ticks.tick, deliver)
        self._look_at_fresh_buffers()
        self._look_at_changed()
        notes = self.findings.settle()
        for cell in self.cells.values():
            if cell.staged:
                self.installation.install(cell)
        others.ready()
        self.batches.begin()
        self.transfers.write()
        self.batches.write()
        return notes, initialised

    @property
    def begun(self) -> list[Transfer | Batch]:
        """What is being written without a way back."""
        return [*self.batches.begun, *self.transfers.begun]

    def _look_at_fresh_buffers(self) -> None:
        """Note buffers that keep their values, and have no finite one."""
        import torch

        filled = {step.slot.spec.name for step in self.rest}
        for cell in [cell for name, cell in self.cells.items() if name not in filled]:
            slot = cell.slot
            if not (slot.is_buffer and slot.persistent and slot.spec.numel):
                continue
            value = cell.value
            if value.layout is torch.strided and value.is_floating_point() and bool(value.isinf().all()):
                self.findings.infinite(slot, "stays as it was, and holds nothing but infinite values")

    def _look_at_changed(self) -> None:
        """Note slots that were to stay fresh, and share memory with ones that were filled."""
        if not self.overlapping:
            return
        filled = [step.slot.spec.name for step in self.steps]
        starts, stops = np.array([self.cells[name].reach for name in filled], np.uint64).reshape(-1, 2).T
        for name in self.cells.keys() - set(filled):
            start, stop = self.cells[name].reach
            if others := [filled[at] for at in np.flatnonzero((starts < stop) & (stops > start))]:
                self.findings.changed_along(self.cells[name].slot, others)

    def _fill(self, step: Step) -> None:
        cell = self._cell(step)
        try:
            if not cell.staged:
                self.undo.keep(cell.value)
            self.written.digests[step.slot.name] = fill(step, cell.value, self.reader, self.findings)
        except Exception as error:
            error.add_note(step.slot.name)
            raise
        self.ticks.tick(self._fed(step))

    def _fed(self, step: Step) -> int:
        """Return the bytes of all tensors that `step` is computed from."""
        return sum(self.specs[feed.network][feed.key].nbytes for feed in step.feeds)

    def roll_back(self) -> list[str]:
        """Put everything back, once no helper writes any more; return the slots whose old values are gone.

        Those get NaN, or zero where the type has none: nobody may take them for weights.
        """
        self.transfers.stop()
        self.installation.undo()
        refused = self.undo.restore()
        for lost in self.begun:
            lost.spoil()
        spoiled = {name for lost in self.begun for name in lost.names}
        wild = {id(tensor) for tensor in refused}
        wild_names = {name for name, cell in self.cells.items() if id(cell.value) in wild} if wild else set()
        return [name for step in self.steps if (name := step.slot.spec.name) in spoiled or name in wild_names]

    def mark_changed(self) -> None:
        """Tell autograd that the values changed, as a copy in place would have."""
        import torch

        real = [cell.places for step in self.rest if not (cell := self.cells[step.slot.spec.name]).staged]
        changed = [*(place.tensor for places in real for place in places), *(one.tensor for one in self.picked)]
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
            bytes_read=self.read,
            bytes_written=self.filled,
            mapped=self.mapped.told(prefaulted=self.home.prefault) if self.home.mmap else None,
            undo_bytes=self.undo.size,
            checks=checks,
            notes=notes,
        )


def _filled(step: Step) -> int:
    return step.filled * step.slot.spec.dtype.itemsize


def _wait() -> None:
    """Let signals wait: there is no way back."""


def _others(slots: Sequence[Slot], small: Sequence[Small]) -> Sequence[Slot]:
    """Return the slots that were not picked."""
    names = {one.step.slot.spec.name for one in small}
    return [slot for slot in slots if slot.spec.name not in names]


def _reach(small: Small) -> tuple[int, int]:
    return small.address, small.address + small.size


def _in_file_order(steps: Sequence[Step], source: Source) -> list[Step]:
    """Return the steps in the order in which their first inputs lie in the file."""
    first = (-1, -1)
    return sorted(steps, key=lambda s: source.position(s.feeds[0].network, s.feeds[0].key) if s.feeds else first)


def _raise_if_failed(checks: Sequence[Check]) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        texts = "; ".join(f"{check.name}: {check.text}" for check in failed)
        raise ApplyError(f"what lies in the model is not what was to be written ({texts}); the model was put back")


def _lost(names: Sequence[str], error: BaseException) -> ModelLostError:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ModelLostError(
        f"{_said(error)}; old values were not kept: {', '.join(names[:3])}{more} hold NaN now, and all else "
        "is as it was. Build the model anew; a load with undo='keep' needs as much memory again, and can always put it back"
    )


def _translated(error: BaseException) -> BaseException:
    """Return the error to raise: our own and interrupts as they are, others as ApplyError that names the slot."""
    if not isinstance(error, Exception) or isinstance(error, (CheckpointError, PlanRefusedError, ApplyError)):
        return error
    notes: Any = getattr(error, "__notes__", [])
    slot = f"{notes[0]}: " if notes else ""
    return ApplyError(f"{slot}{_said(error)}; the model was put back as it was")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {printable(str(error), MAX_MESSAGE)}"
