"""Which slots of a model on meta become views of the file, and why the others don't."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torchgraft.applying.cells import device_for, expect_reachable
from torchgraft.applying.moves import segments
from torchgraft.applying.pages import FileRange, file_map, joined_map, joins
from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError
from torchgraft.core.places import Walk, here
from torchgraft.core.plan import Action, Step
from torchgraft.core.results.report import Mapped
from torchgraft.core.specs import Source, TensorSpec

if TYPE_CHECKING:
    import mmap

    import torch

    Specs = Mapping[str, Mapping[str, TensorSpec]]

# Pieces of a join that are smaller on average are read: each mapping costs the system more than copying a few pages.
WORTH = 64 << 10
# Linux gives a process 65530 mappings unless told otherwise (vm.max_map_count), and others need some.
MOST = 16384


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the tensors of a model on meta come to life: in memory of their own on `device`, or mapped.

    With `mmap` what needs no work becomes a view of the file; with `prefault` its pages are brought in at once.

    Raises:
        UsageError: `mmap` or `prefault` is no truth value, or there is nothing to prefault.
    """

    device: str | torch.device | None = None
    mmap: bool = False
    prefault: bool = False

    def __post_init__(self) -> None:
        for name, value in (("mmap", self.mmap), ("prefault", self.prefault)):
            if not isinstance(value, bool):
                raise UsageError(f"{name}={value!r:.80}: use True or False")
        if self.prefault and not self.mmap:
            raise UsageError("prefault=True brings in pages of mapped files: it needs mmap=True")

    def checked(self, model: Walk) -> torch.device:
        """Return the device.

        Raises:
            UsageError: nothing has values there, this machine has no such device, the wishes contradict each other, or
                the model has memory of its own.
        """
        where = device_for(self.device)
        if not self.mmap:
            self._refuse_elsewhere(model, where)
            expect_reachable(where)
            return where
        if where.type != "cpu":
            raise UsageError(f"mmap=True maps the file into the CPU's memory, device='{where}' needs a copy: drop one")
        if not any(here(place.tensor).is_meta for place in model.places):
            raise UsageError(
                "mmap=True is for models without memory, and this one has its own, which would be left unused: build it on "
                "the meta device (torchgraft.build does), or drop mmap=True"
            )
        return where

    def _refuse_elsewhere(self, model: Walk, where: torch.device) -> None:
        """Refuse a device that was asked for where the model lies on another: tensors that have memory aren't moved."""
        tensors = [here(place.tensor) for place in model.places] if self.device is not None else []
        if any(tensor.is_meta for tensor in tensors):
            return
        elsewhere = [
            t.device for t in tensors if t.device.type != where.type or where.index not in (None, t.device.index)
        ]
        if elsewhere:
            raise UsageError(
                f"device='{where}' is where the tensors of a meta model come to life, and this model lies on "
                f"'{elsewhere[0]}' and stays there: move it with model.to('{where}'), or drop device="
            )


@dataclass(frozen=True, slots=True)
class MappedSlots:
    """Tensors that are views of files, by slot, and why others are not: how many for each reason."""

    values: dict[str, torch.Tensor] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Yield address and size of each."""
        for value in self.values.values():
            yield value.data_ptr(), value.numel() * value.element_size()

    def summary(self, *, prefaulted: bool) -> Mapped:
        """Return what the report says of them."""
        return Mapped(slots=tuple(self.values), nbytes=self.size, prefaulted=prefaulted, owned=dict(self.others))

    @property
    def size(self) -> int:
        """Their bytes together."""
        return sum(size for _, size in self.ranges())


def map_slots(model: Walk, steps: Sequence[Step], source: Source) -> MappedSlots:
    """Return views of the file for the slots on meta whose bytes lie there as they are wanted.

    No two views share bytes: what is written to one must not be seen in another.

    Raises:
        CheckpointError: the file has changed since it was opened.
    """
    found = MappedSlots()
    if not steps:
        return found
    specs = {network.path: network.specs for network in source.networks}
    tensors = {place.name: here(place.tensor) for place in model.places}
    views = _Views()
    for step in steps:
        tensor = tensors[step.slot.name]
        if not tensor.is_meta or step.action is Action.FRESH or not tensor.numel():
            continue
        file_ranges = _lying(step, tensor, source, specs)
        made = file_ranges if isinstance(file_ranges, str) else views.make(file_ranges, tensor)
        if isinstance(made, str):
            found.others[made] += 1
        else:
            found.values[step.slot.name] = made
    return found


def _lying(step: Step, tensor: torch.Tensor, source: Source, specs: Specs) -> list[FileRange] | str:
    """Return where the bytes of a slot lie in files, in their order, or why they can't be taken from there."""
    slot = step.slot.spec
    moved = segments(step, source, specs)
    if moved is None:
        return "of bools, whose bytes are looked at" if slot.dtype is DType.BOOL else "computed"
    if specs[step.feeds[0].network][step.feeds[0].key].dtype is not slot.dtype:
        return "cast"
    if sum(segment.size for segment in moved) != slot.nbytes:
        return "filled in part"
    if not tensor.is_contiguous():
        return "of an order of elements that only the model has"
    out: list[FileRange] = []
    for segment in moved:
        extent = source.extent(segment.network, segment.key, segment.start, segment.size)
        if extent is None:
            return "packed in the file, in another order there, or in memory"
        last = out[-1].extent if out else None
        if last is not None and last.fd == extent.fd and last.offset + last.size == extent.offset:
            out[-1] = out[-1]._replace(extent=last._replace(size=last.size + extent.size))
        else:
            out.append(FileRange(segment.at, extent))
    return "not aligned in the file" if out[0].extent.offset % slot.dtype.itemsize else out


class _Views:
    """Makes views: of the one mapping of a file where no other view has their bytes, else of a mapping of their own."""

    def __init__(self) -> None:
        self._files: dict[int, mmap.mmap] = {}
        self._ends: dict[int, int] = {}
        self._count = 0

    def make(self, file_ranges: Sequence[FileRange], like: torch.Tensor) -> torch.Tensor | str:
        """Return a view of these bytes with the shape and type of `like`, or why there is none."""
        first = file_ranges[0].extent
        try:
            if len(file_ranges) == 1 and first.offset >= self._ends.get(first.fd, 0):
                self._ends[first.fd] = first.offset + first.size
                if first.fd not in self._files:
                    self._files[first.fd] = file_map(first.fd)
                return _view(self._files[first.fd], first.offset, like)
            if not joins(file_ranges):
                return "joined from places that fit no pages"
            size = like.numel() * like.element_size()
            if size < WORTH * len(file_ranges) or self._count + len(file_ranges) > MOST:
                return "joined from small places, or too many" if len(file_ranges) > 1 else "small, and used twice"
            self._count += len(file_ranges)
            return _view(*joined_map(file_ranges), like)
        except OSError as error:
            return f"in a file that can't be mapped ({error.strerror})"


def _view(memory: mmap.mmap, offset: int, like: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.frombuffer(memory, dtype=like.dtype, count=like.numel(), offset=offset).view(like.shape)
