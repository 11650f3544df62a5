"""All or nothing: the order of events, and the way back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torchgraft.applying.cells import Cell, Installation, resolve
from torchgraft.applying.fill import fill
from torchgraft.applying.findings import Findings
from torchgraft.applying.fresh import initialise
from torchgraft.applying.memory import bytes_of, is_plain
from torchgraft.applying.reading_once import ReadOnce
from torchgraft.applying.result import Applied
from torchgraft.applying.shield import Shield
from torchgraft.applying.stream import Stream, Transfer
from torchgraft.applying.undo import Undo
from torchgraft.core.dtypes import DType
from torchgraft.core.errors import ApplyError, CheckpointError, PlanRefusedError
from torchgraft.core.plan import Action

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from torch import nn

    from torchgraft.core.plan import Objection, Plan, Step
    from torchgraft.core.report import Check
    from torchgraft.core.specs import Source, Target, TensorSpec


class Verifier(Protocol):
    """Compares what lies in the model with what it should have got; `digests` has checksums of computed slots."""

    def __call__(self, model: nn.Module, plan: Plan, source: Source, digests: Mapping[str, int]) -> Sequence[Check]:
        """Return the checks, passed or failed."""
        ...


def apply(
    model: nn.Module,
    target: Target,
    plan: Plan,
    source: Source,
    *,
    verify: Verifier | None = None,
    device: str | torch.device | None = None,
) -> Applied:
    """Fill `model` by `plan`, or leave it exactly as it was.

    Tensors on the meta device come to life on `device` (the CPU by default). `verify` runs inside the transaction.
    Extra memory: the old values of the slots that are filled, and one tensor per step that computes.

    Raises:
        PlanRefusedError: the plan holds objections, or the values do (NaN, overflow); all at once.
        CheckpointError: the checkpoint can't be read to its end.
        ApplyError: anything else went wrong. In all cases the model is unchanged.
    """
    import torch

    plan.raise_if_refused()
    with torch.no_grad(), Shield() as shield:
        cells = resolve(model, target, device)
        work = _Work(cells, _in_file_order(plan.steps, source), source, Findings(plan.policy))
        random = torch.get_rng_state()
        try:
            notes, initialised = work.carry_out(model, shield)
            checks = tuple(verify(model, plan, source, work.digests)) if verify else ()
            _raise_if_failed(checks)
            shield.deliver()
        except BaseException as error:
            work.roll_back()
            torch.set_rng_state(random)
            if (named := _translated(error)) is not error:
                raise named from error
            raise
        work.mark_changed()
        return work.applied(checks, notes, initialised)


@dataclass(slots=True)
class _Work:
    """A load in progress."""

    cells: Mapping[str, Cell]
    steps: Sequence[Step]
    source: Source
    findings: Findings
    digests: dict[str, int] = field(default_factory=dict)
    undo: Undo = field(init=False)
    stream: Stream = field(init=False)
    reader: ReadOnce = field(init=False)
    installation: Installation = field(default_factory=Installation)

    def __post_init__(self) -> None:
        self.undo = Undo([self._cell(step).value for step in self.steps if not self._cell(step).staged])
        self.reader = ReadOnce(self.source)
        self.stream = Stream(self.source, self.undo, self.findings)

    def _cell(self, step: Step) -> Cell:
        return self.cells[step.slot.name]

    def carry_out(self, model: nn.Module, shield: Shield) -> tuple[tuple[Objection, ...], tuple[str, ...]]:
        """Initialise, fill, settle what the values say, and put new tensors in; return notes and initialised slots."""
        initialised = initialise(model, self.cells, self.steps)
        specs = {network.path: network.specs for network in self.source.networks}
        direct = [step for step in self.steps if _is_direct(step, self._cell(step), specs)]
        straight = {step.slot.name for step in direct}
        self.stream.start([self._transfer(step) for step in direct])
        for step in self.steps:
            if step.slot.name not in straight:
                self._fill(step)
                shield.deliver()
        self.stream.finish(shield.deliver)
        notes = self.findings.settle()
        for cell in self.cells.values():
            if cell.staged:
                self.installation.install(cell)
        return notes, initialised

    def _transfer(self, step: Step) -> Transfer:
        cell = self._cell(step)
        data = bytes_of(cell.value)
        room = 0 if cell.staged or not data.size else self.undo.reserve(data.size)
        return Transfer(step, data, cell.value.data_ptr(), room)

    def _fill(self, step: Step) -> None:
        cell = self._cell(step)
        try:
            if not cell.staged:
                self.undo.keep(cell.value)
            self.digests[step.slot.name] = fill(step, cell.value, self.reader, self.findings)
        except Exception as error:
            error.add_note(step.slot.name)
            raise

    def roll_back(self) -> None:
        """Put everything back, once no helper writes any more."""
        self.stream.stop()
        self.installation.undo()
        self.undo.restore()

    def mark_changed(self) -> None:
        """Tell autograd that the values changed, as a copy in place would have."""
        import torch

        real = [self._cell(step).places for step in self.steps if not self._cell(step).staged]
        torch.autograd.graph.increment_version([place.tensor for places in real for place in places])

    def applied(self, checks: tuple[Check, ...], notes: tuple[Objection, ...], initialised: tuple[str, ...]) -> Applied:
        """Return the result."""
        specs = {network.path: network.specs for network in self.source.networks}
        return Applied(
            initialised=initialised,
            bytes_read=sum(specs[f.network][f.key].nbytes for step in self.steps for f in step.feeds),
            bytes_written=sum(step.filled * step.slot.spec.dtype.itemsize for step in self.steps),
            undo_bytes=self.undo.size,
            checks=checks,
            notes=notes,
        )


def _in_file_order(steps: Sequence[Step], source: Source) -> list[Step]:
    """Return the steps that write, in the order in which their first inputs lie in the file."""
    writing = [step for step in steps if step.action is not Action.FRESH]
    first = (-1, -1)
    return sorted(writing, key=lambda s: source.position(s.feeds[0].network, s.feeds[0].key) if s.feeds else first)


def _is_direct(step: Step, cell: Cell, specs: Mapping[str, Mapping[str, TensorSpec]]) -> bool:
    """Return whether the file's bytes are the slot's bytes. Bytes of a bool may be anything, so those are cast."""
    if step.action is not Action.COPY:
        return False
    feed = step.feeds[0]
    spec = specs[feed.network][feed.key]
    slot = step.slot.spec
    if spec.dtype is not slot.dtype or spec.shape != slot.shape or slot.dtype is DType.BOOL:
        return False
    return is_plain(cell.value) and cell.value.is_contiguous()


def _raise_if_failed(checks: Sequence[Check]) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        texts = "; ".join(f"{check.name}: {check.text}" for check in failed)
        raise ApplyError(f"what lies in the model is not what was to be written ({texts}); the model was put back")


def _translated(error: BaseException) -> BaseException:
    """Return the error to raise: our own and interrupts as they are, others as ApplyError that names the slot."""
    if not isinstance(error, Exception) or isinstance(error, (CheckpointError, PlanRefusedError, ApplyError)):
        return error
    notes: Any = getattr(error, "__notes__", [])
    slot = f"{notes[0]}: " if notes else ""
    return ApplyError(f"{slot}{type(error).__name__}: {error}; the model was put back as it was")
