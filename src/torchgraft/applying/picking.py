"""Which slots are small and copied as they are: those are filled many at a time, and no object is made for each.

Here bulk and single part: whoever is not picked gets a cell of its own, and is looked at one by one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.applying.batches import MANY, MOST, Batch
from torchgraft.applying.memory import is_plain
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Action, Step
from torchgraft.core.specs import TensorSpec
from torchgraft.core.written import SMALL

if TYPE_CHECKING:
    import torch

    Specs = Mapping[str, Mapping[str, TensorSpec]]


class Small(NamedTuple):
    """A small slot that gets one tensor of the source as it is.

    `rank` orders all as the source has them. `tensor` is what is written to: `size` bytes from `address` on.
    """

    rank: int
    step: Step
    tensor: torch.Tensor
    address: int
    size: int


def picked(steps: Sequence[Step], tensors: Mapping[str, torch.Tensor], specs: Specs) -> tuple[list[Small], list[Step]]:
    """Return the steps that copy one tensor into a small one of the same shape and type, and the other steps.

    `tensors` has by the name of the slot what is written to. Only plain memory under one name is picked, and no bool, of which
    other bytes than 0 and 1 are refused.
    """
    small: list[Small] = []
    others: list[Step] = []
    known: dict[str, Mapping[str, tuple[int, TensorSpec]]] = {}  # each key is looked up once: that costs most of this
    new, copy, truth = tuple.__new__, Action.COPY, DType.BOOL
    for step in steps:
        slot = step.slot
        spec = slot.spec
        tensor = tensors.get(spec.name)
        if (
            tensor is not None
            and not slot.aliases
            and is_plain(tensor)
            and 0 < (size := tensor.nbytes) <= SMALL
            and step.action is copy
            and tensor.shape == spec.shape
            and tensor.is_contiguous()
        ):
            feed = step.feeds[0]
            if feed.network not in known:
                known[feed.network] = dict(
                    zip(specs[feed.network], enumerate(specs[feed.network].values()), strict=True)
                )
            rank, given = known[feed.network][feed.key]
            if given.dtype is spec.dtype is not truth and given.shape == spec.shape:
                small.append(new(Small, (rank, step, tensor, tensor.data_ptr(), size)))
                continue
        others.append(step)
    return small, others


def batched(small: Sequence[Small], *, staged: bool) -> list[Batch]:
    """Return small slots in batches of one element type, each in the order of the source; `staged`: they have no old values."""
    kinds: defaultdict[DType, list[Small]] = defaultdict(list)
    for one in sorted(small, key=itemgetter(0)):
        kinds[one.step.slot.spec.dtype].append(one)
    return [Batch(*_columns(some), staged=staged) for found in kinds.values() for some in _cut(found)]


def _cut(found: Sequence[Small]) -> Iterator[Sequence[Small]]:
    """Yield what may go together, no larger than a batch may be."""
    first = size = 0
    for at, (*_, more) in enumerate(found):
        if size + more > MOST or at - first == MANY:
            yield found[first:at]
            first, size = at, 0
        size += more
    yield found[first:]


def _columns(found: Sequence[Small]) -> tuple[Sequence[Step], Sequence[torch.Tensor], Sequence[int], Sequence[int]]:
    _, steps, tensors, addresses, sizes = zip(*found, strict=True)
    return steps, tensors, addresses, sizes
