"""Small tensors that are copied as they are: read side by side, checked together, and scattered to their slots.

What costs little for a large tensor (an object for each part, a call for each step of the way) is most of the cost of a
small one, and mixture-of-experts models have a hundred thousand of these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchgraft.applying.findings import Findings
from torchgraft.applying.finite import count_nonfinite
from torchgraft.applying.memory import Bytes, invalidate, is_plain, scatter
from torchgraft.applying.undo import Undo
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Action, Step
from torchgraft.core.specs import Source, TensorSpec
from torchgraft.core.system.checksums import crc32
from torchgraft.core.written import SMALL, Written, WrittenBatch

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


def split_small(
    steps: Sequence[Step], tensors: Mapping[str, torch.Tensor], specs: Specs
) -> tuple[list[Small], list[Step]]:
    """Return the steps that copy one tensor into a small one of the same shape and type, and the other steps.

    `tensors` has by the name of the slot what is written to. Only plain memory under one name counts, and no bool, of which
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


def make_batches(small: Sequence[Small], *, staged: bool) -> list[Batch]:
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


MOST = 512 << 10  # bytes of a batch: as much as stays in a core's own cache, in few pages
ALIGNED = 64  # bytes of memory at which a batch begins
MANY = 4096  # tensors of a batch: signals are heard in between


class Batch(NamedTuple):
    """Small slots of one element type: steps, tensors, and where each lies in memory with how many bytes.

    `staged`: none of them has old values. `undo_address`, `read_twice` and `unprotected` are as for a Transfer.
    """

    steps: Sequence[Step]
    tensors: Sequence[torch.Tensor]
    addresses: Sequence[int]
    sizes: Sequence[int]
    staged: bool = False
    undo_address: int = 0
    read_twice: bool = False
    unprotected: bool = False

    @property
    def size(self) -> int:
        """Number of bytes."""
        return sum(self.sizes)

    @property
    def old(self) -> int:
        """Number of bytes of old values."""
        return 0 if self.staged else self.size

    @property
    def dtype(self) -> DType:
        """The element type of all."""
        return self.steps[0].slot.spec.dtype

    @property
    def names(self) -> list[str]:
        """The slots."""
        return [step.slot.spec.name for step in self.steps]

    def invalidate(self) -> None:
        """Fill what was to be read with NaN, or with zeros where the type has no NaN."""
        for tensor in self.tensors:
            invalidate(tensor.data)


class Batches:
    """Reads batches, in the two passes that Transfers explains. Memory: one batch."""

    def __init__(  # what it reads, and who hears of it
        self, source: Source, undo: Undo, findings: Findings, written: Written, tick: Callable[[int], None]
    ) -> None:
        self._source = source
        self._undo = undo
        self._findings = findings
        self._written = written
        self._tick = tick
        self._scratch = np.empty(0, np.uint8)
        self._later: list[Batch] = []
        self.begun: list[Batch] = []

    def take(self, batches: Sequence[Batch], between: Callable[[], None]) -> None:
        """Do the first pass; `between` is called now and then, and may raise."""
        self._later = [batch for batch in batches if batch.read_twice]
        self.begun = [batch for batch in batches if batch.unprotected]
        for some in _together(batches):
            for batch, data in zip(some, self._read(some), strict=True):
                self._take(batch, data)
                self._tick(batch.size)
            between()

    def begin(self) -> None:
        """Hear that the second pass begins: from here on only a file that changes or a disk that fails stands in the way."""
        self.begun += self._later

    def write(self) -> None:
        """Do the second pass."""
        for some in _together(self._later):
            for batch, data in zip(some, self._read(some), strict=True):
                self._put(batch, data)
                with suppress(Exception):  # there is no way back: a listener that fails must not cost the model
                    self._tick(batch.size)

    def _take(self, batch: Batch, data: Bytes) -> None:
        """Take checksums for the comparison, look at every value, keep old values, and put new ones into their places."""
        ends = list(pairwise(accumulate(batch.sizes, initial=0)))
        view = data.data
        checksums = [crc32(view[start:stop], 0) for start, stop in ends]
        written = WrittenBatch(batch.names, batch.tensors, batch.addresses, batch.sizes, checksums)
        self._written.batches.append(written)
        if self._findings.checks_finite and count_nonfinite(data, batch.dtype):
            for step, (start, stop) in zip(batch.steps, ends, strict=True):
                if nonfinite := count_nonfinite(data[start:stop], batch.dtype):
                    self._findings.nonfinite(step, nonfinite)
        if batch.undo_address:
            self._undo.keep_many(batch.undo_address, batch.addresses, batch.sizes)
        if not batch.read_twice:
            self._put(batch, data)

    def _read(self, batches: Sequence[Batch]) -> list[Bytes]:
        """Return the bytes of each batch, those of all its tensors side by side, until the next call."""
        starts = list(accumulate([-(-batch.size // ALIGNED) * ALIGNED for batch in batches], initial=0))
        if self._scratch.size < starts[-1]:
            self._scratch = np.empty(starts[-1], np.uint8)
        feeds = [step.feeds[0] for batch in batches for step in batch.steps]
        sizes = [accumulate(batch.sizes, initial=first) for batch, first in zip(batches, starts, strict=False)]
        wanted = [(batch, list(ends)[:-1]) for batch, ends in zip(batches, sizes, strict=True)]
        try:
            self._source.read_many(
                [(feed.network, feed.key) for feed in feeds],
                [at for _, some in wanted for at in some],
                [size for batch in batches for size in batch.sizes],
                self._scratch.data,
            )
        except BaseException as error:
            slots = sorted((step.slot for batch in batches for step in batch.steps), key=attrgetter("order"))
            error.add_note(" ... ".join(dict.fromkeys((slots[0].name, slots[-1].name))))
            raise
        return [self._scratch[first : first + batch.size] for batch, first in zip(batches, starts, strict=False)]

    def _put(self, batch: Batch, data: Bytes) -> None:
        scatter(int(data.ctypes.data), batch.addresses, batch.sizes)


def _together(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Yield batches in groups that together are no larger than one may be: in the file, those of several types take turns."""
    some: list[Batch] = []
    size = 0
    for batch in batches:
        if some and size + batch.size > MOST:
            yield some
            some, size = [], 0
        some.append(batch)
        size += batch.size
    if some:
        yield some
