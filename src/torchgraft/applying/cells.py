"""Slots of the target as places in the model: where values are written to, and how meta tensors become real ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, cast

import numpy as np

from torchgraft.applying.memory import fresh, is_on_cuda, is_plain
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.layout import NO_MEMORY, is_dense, span
from torchgraft.core.places import Place, Walk, here, is_spread, walk_of
from torchgraft.core.plan import Action, Step
from torchgraft.core.specs import Slot

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.distributed.tensor import DTensor

LARGE = 64 << 10  # bytes of a tensor that gets a mapping of its own


@dataclass(eq=False, slots=True)
class Cell:
    """A slot in the model: its places, and the tensor whose memory is written to.

    `memory` is the model's own, or, where the model has none (meta: `staged`), new memory that `Installation` puts in.
    `plain`: it is ordinary CPU memory that bytes can be moved to and from; `on_device`: that of a device, that they are sent
    to. `size`: so many bytes of plain memory follow each other from `address` on; 0 where it isn't that simple. All this is
    asked of a tensor once, in a row: in a large model, to come back to it costs more than to ask.
    """

    slot: Slot
    places: tuple[Place, ...]
    memory: torch.Tensor
    staged: bool
    plain: bool
    on_device: bool = False
    address: int = 0
    size: int = 0
    _value: torch.Tensor | None = None

    @property
    def value(self) -> torch.Tensor:
        """The tensor to write to: with a version counter of its own, so that a load that was rolled back leaves no trace."""
        if self._value is None:
            self._value = self.memory.data
        return self._value

    @property
    def address_range(self) -> tuple[int, int]:
        """Where the elements of plain memory begin, and end."""
        return (self.address, self.address + self.size) if self.size else address_range_of(self.memory)


def resolve(
    model: nn.Module | Walk, slots: Sequence[Slot], device: torch.device, mapped: Mapping[str, torch.Tensor]
) -> dict[str, Cell]:
    """Return the cells of the slots by their canonical name.

    Tensors on meta get memory on `device`, or have it in `mapped` already, with their values.

    Raises:
        UsageError: the model has changed since it was surveyed.
    """
    found = {place.name: place for place in walk_of(model).places} if slots else {}
    cells: dict[str, Cell] = {}
    for slot in slots:
        spec = slot.spec
        names = slot.names if slot.aliases else (spec.name,)
        mine = tuple([found[name] for name in names if name in found])
        tensor = here(mine[0].tensor) if mine else None
        if tensor is None or tensor.shape != spec.shape:
            now = "is gone" if tensor is None else f"is now {list(tensor.shape)}"
            raise UsageError(
                f"{slot.name} {list(spec.shape)} {now}: the model has changed since it was planned for; plan again"
            )
        memory = tensor
        if staged := tensor.is_meta:
            there = mapped.get(spec.name)
            memory = _memory_like(tensor, device) if there is None else there
        if (plain := is_plain(memory)) and memory.is_contiguous():
            cells[spec.name] = Cell(slot, mine, memory, staged, plain, address=memory.data_ptr(), size=memory.nbytes)
        else:
            cells[spec.name] = Cell(slot, mine, memory, staged, plain, is_on_cuda(memory))
    return cells


def device_for(given: str | torch.device | None) -> torch.device:
    """Return where tensors of a meta model are to live: the CPU unless given.

    Raises:
        UsageError: there is no such device, or nothing has values there.
    """
    import torch

    try:
        device = torch.device("cpu" if given is None else given)
    except (RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"device={given!r}: {printable(str(error), 200)}") from error
    if device.type == "meta":
        raise UsageError("device='meta': nothing has values there; give the device where the model is to live")
    return device


def expect_reachable(device: torch.device) -> None:
    """Refuse a device that this machine or this build of torch doesn't have, before anything is read for it.

    Raises:
        UsageError: nothing can be made there.
    """
    import torch

    if device.type == "cpu":
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = printable(str(error).partition("\n")[0], 200)
        raise UsageError(f"device='{device}' can't be used here: {reason}") from error


def expect_writable(written: Iterable[tuple[torch.Tensor, Step]]) -> None:
    """Refuse to fill tensors whose elements have no place of their own.

    Raises:
        UsageError: a tensor that a step writes to is expanded, sparse, or made of other tensors.
    """
    import torch

    for tensor, step in written:
        if step.action is Action.FRESH:
            continue
        name = step.slot.name
        if hasattr(type(tensor), "__tensor_flatten__") and not is_spread(tensor):
            raise UsageError(
                f"{name} of the model is a {type(tensor).__name__}, which is made of other tensors: only plain ones are "
                f"filled; load before it is converted to that, or say fresh={[name]}"
            )
        if tensor.layout is torch.strided and tensor.is_contiguous():
            continue
        if tensor.layout is not torch.strided:
            kind = str(tensor.layout).removeprefix("torch.")
            raise UsageError(
                f"{name} of the model is {kind}: only dense tensors are filled; make it dense, or say fresh={[name]}"
            )
        if any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)):
            raise UsageError(
                f"{name} {list(tensor.shape)} of the model is expanded: several of its elements are one in memory, so none can "
                f"be filled alone; give the model a clone() of it, or say fresh={[name]}"
            )


def are_disjoint(ranges: Sequence[tuple[int, int]]) -> bool:
    """Return whether no two of the ranges of memory (first byte, byte after the last) reach into each other."""
    bounds = np.fromiter(chain.from_iterable(ranges), np.uint64, 2 * len(ranges)).reshape(-1, 2)
    bounds = bounds[bounds[:, 0] < bounds[:, 1]]
    bounds = bounds[np.argsort(bounds[:, 0])]
    return bool((bounds[:-1, 1] <= bounds[1:, 0]).all())


def address_range_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Return where the elements of a tensor begin in memory, and end; nothing lies between where it has none.

    Of one that is not plain, this is where its storage begins and ends.
    """
    if not (is_plain(tensor) or is_on_cuda(tensor)):
        return _storage_of(tensor)
    start = tensor.data_ptr()
    return start, start + span(tensor)


def _storage_of(tensor: torch.Tensor) -> tuple[int, int]:
    try:
        storage = tensor.untyped_storage()
        start = storage.data_ptr()
    except NO_MEMORY:
        return 0, 0
    return start, start + storage.nbytes()


def _memory_like(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return uninitialised memory for a meta tensor: same shape, type and, where it has no gaps, same strides."""
    import torch

    if not is_dense(tensor):
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
    if device.type != "cpu" or tensor.nbytes < LARGE:
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return torch.frombuffer(fresh(tensor.nbytes), dtype=tensor.dtype).as_strided(tensor.shape, tensor.stride())


class Installation:
    """Puts staged tensors into the model under the identity of the meta tensors, and can take them out again."""

    def __init__(self) -> None:
        self._swapped: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._replaced: list[tuple[Place, torch.Tensor]] = []

    def install(self, cell: Cell) -> None:
        """Give every tensor object of `cell` the staged memory."""
        import torch

        done: set[int] = set()
        for place in cell.places:
            old = place.tensor
            if id(old) in done:
                continue
            done.add(id(old))
            new = _dressed(old, cell.value)
            self._swapped.append((old, new))  # first, so that no swap ever goes unnoted
            try:
                torch.utils.swap_tensors(old, new)
            except RuntimeError:  # something else holds the tensor itself, a weak reference or an autograd node
                self._replace(cell, old, new)

    def _replace(self, cell: Cell, old: torch.Tensor, new: torch.Tensor) -> None:
        for place in cell.places:
            if place.tensor is old:
                self._replaced.append((place, old))
                setattr(place.module, place.attr, new)

    def undo(self) -> None:
        """Take every staged tensor out again."""
        import torch

        for place, old in reversed(self._replaced):
            setattr(place.module, place.attr, old)
        for old, new in reversed(self._swapped):
            if not old.is_meta:
                torch.utils.swap_tensors(old, new)


def _dressed(old: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return `value` as a tensor of the class, the attributes and the gradient flag of `old`."""
    import torch

    if is_spread(old):
        new = _spread_like(old, value)
    elif isinstance(old, torch.nn.Parameter) or type(old) is not torch.Tensor:
        new = torch.Tensor._make_subclass(type(old), value, old.requires_grad)  # noqa: SLF001  # as nn.Parameter does
    else:
        new = value.detach().requires_grad_(old.requires_grad)
    new.__dict__.update(old.__dict__)
    return new


def _spread_like(old: torch.Tensor, local: torch.Tensor) -> torch.Tensor:
    """Return a tensor that is spread as `old` is, and of which this process holds `local`."""
    import torch

    spread = cast("DTensor", old)
    new: torch.Tensor = type(spread).from_local(
        local, spread.device_mesh, spread.placements, run_check=False, shape=old.shape, stride=old.stride()
    )
    if isinstance(old, torch.nn.Parameter):
        return torch.nn.Parameter(new, requires_grad=old.requires_grad)
    return new.requires_grad_(old.requires_grad)
