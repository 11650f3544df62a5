"""Many small tensors that are copied as they are: read side by side, looked at together, and put into their places.

What costs little for a large tensor (an object for each part, a call for each step of the way) is most of the cost of a
small one, and models of experts have a hundred thousand of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchgraft.applying.findings import Findings
from torchgraft.applying.finite import odd_values
from torchgraft.applying.undo import Undo
from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Step
from torchgraft.core.specs import Source
from torchgraft.core.system.checksums import crc32
from torchgraft.core.system.moving import scatter
from torchgraft.core.written import Run, Written

if TYPE_CHECKING:
    import torch

    from torchgraft.applying.memory import Bytes

MOST = 512 << 10  # bytes of a batch: as much as stays in a core's own cache, in few pages
ALIGNED = 64  # bytes of memory at which a batch begins
MANY = 4096  # tensors of a batch: signals are heard in between


class Batch(NamedTuple):
    """Small slots of one element type: steps, tensors, and where each lies in memory with how many bytes.

    `staged`: none of them has old values. `room`, `proves` and `bare` are as for a Transfer.
    """

    steps: Sequence[Step]
    tensors: Sequence[torch.Tensor]
    addresses: Sequence[int]
    sizes: Sequence[int]
    staged: bool = False
    room: int = 0
    proves: bool = False
    bare: bool = False

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

    def spoil(self) -> None:
        """Fill what was to be read with NaN, or with zeros where the type has no NaN."""
        for tensor in self.tensors:
            value = tensor.data
            value.fill_(float("nan") if value.is_floating_point() or value.is_complex() else 0)


class Batches:
    """Reads batches, in the two goes that Transfers explains. Memory: one batch."""

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
        """Do the first go; `between` is called now and then, and may raise."""
        self._later = [batch for batch in batches if batch.proves]
        self.begun = [batch for batch in batches if batch.bare]
        for some in _together(batches):
            for batch, data in zip(some, self._read(some), strict=True):
                self._take(batch, data)
                self._tick(batch.size)
            between()

    def begin(self) -> None:
        """Hear that the second go begins: from here on only a file that changes or a disk that fails stands in the way."""
        self.begun += self._later

    def write(self) -> None:
        """Do the second go."""
        for some in _together(self._later):
            for batch, data in zip(some, self._read(some), strict=True):
                self._put(batch, data)
                with suppress(Exception):  # there is no way back: a listener that fails must not cost the model
                    self._tick(batch.size)

    def _take(self, batch: Batch, data: Bytes) -> None:
        """Sum up for the comparison, look at every value, keep old values, and put new ones into their places."""
        ends = list(pairwise(accumulate(batch.sizes, initial=0)))
        view = data.data
        checksums = [crc32(view[start:stop], 0) for start, stop in ends]
        run = Run(batch.names, batch.tensors, batch.addresses, batch.sizes, checksums)
        self._written.runs.append(run)
        if self._findings.looks_for_odd and odd_values(data, batch.dtype):
            for step, (start, stop) in zip(batch.steps, ends, strict=True):
                if odd := odd_values(data[start:stop], batch.dtype):
                    self._findings.odd(step, odd)
        if batch.room:
            self._undo.keep_many(batch.room, batch.addresses, batch.sizes)
        if not batch.proves:
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
    """Yield as many batches at a time as are no larger than one may be: in the file, those of several types take turns."""
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
