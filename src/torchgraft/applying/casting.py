"""Values of another element type than the slot's: cast block by block, so that no tensor is ever there twice.

Blocks are cast in bits that torch does not share out among threads: on a busy machine these wait for each other at each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchgraft.applying.fill import count_lost
from torchgraft.applying.finite import NONE, odd_values
from torchgraft.core.checksums import crc32
from torchgraft.core.dtypes import DType

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from torchgraft.applying.chunks import Transfer
    from torchgraft.applying.findings import Findings
    from torchgraft.applying.memory import Bytes
    from torchgraft.applying.undo import Undo
    from torchgraft.core.specs import Source
    from torchgraft.core.written import Written

BLOCK = 4 << 20  # bytes of the wider of the two types: stays in a cache
BIT = 32768  # elements: the most that torch leaves to one thread (at::internal::GRAIN_SIZE)
WITH_INFINITY = (DType.F16, DType.BF16, DType.F32, DType.F64)


class _Block(NamedTuple):
    """`many` elements: those from byte `start` of a source tensor on, which become those from `at` of the slot on."""

    network: str
    key: str
    start: int
    at: int
    many: int


class Casts:
    """Reads, casts and writes one block after the other. Memory: two blocks."""

    def __init__(self, source: Source, undo: Undo, findings: Findings, written: Written) -> None:
        self._source = source
        self._undo = undo
        self._findings = findings
        self._written = written
        self._read = np.empty(0, np.uint8)
        self._aside = np.empty(0, np.uint8)

    def take(self, transfer: Transfer, given: DType) -> None:
        """Look at every value before and after its cast; write it, unless it is to be read once more."""
        step, dtype = transfer.step, transfer.step.slot.spec.dtype
        if transfer.room:
            self._undo.keep_bytes(transfer.room, transfer.value.data_ptr(), transfer.data.size)
        if not self._aside.size:
            self._aside = np.empty(BLOCK, np.uint8)
        odd, lost, checksum = NONE, 0, 0
        for block in _blocks(transfer, given):
            raw = self._block(block, given)
            values = as_tensor(raw, given)
            if self._findings.looks_for_odd:
                odd += odd_values(raw, given)
            size = block.many * dtype.itemsize
            first = block.at * dtype.itemsize
            out = self._aside[:size] if transfer.proves else transfer.data[first : first + size]
            cast = as_tensor(out, dtype)
            copy(values, cast)
            if self._findings.looks_for_loss and _may_have_lost(out, given, dtype):
                lost += count_lost(values, cast)
            checksum = crc32(out.data, checksum)
        if odd:
            self._findings.odd(step, odd)
        if lost:
            self._findings.lost(step, lost, str(given))
        self._written.digests[step.slot.name] = checksum

    def write(self, transfer: Transfer, given: DType) -> None:
        """Read and cast once more, into the slot."""
        place = as_tensor(transfer.data, transfer.step.slot.spec.dtype)
        for block in _blocks(transfer, given):
            copy(as_tensor(self._block(block, given), given), place[block.at : block.at + block.many])

    def _block(self, block: _Block, given: DType) -> Bytes:
        if not self._read.size:
            self._read = np.empty(BLOCK, np.uint8)
        raw = self._read[: block.many * given.itemsize]
        self._source.read_into(block.network, block.key, raw.data, block.start)
        return raw


def as_tensor(data: Bytes, dtype: DType) -> torch.Tensor:
    """Return bytes as a flat tensor that shares their memory."""
    import torch

    kind: torch.dtype = getattr(torch, dtype.label)
    return torch.from_numpy(data).view(kind)


def copy(values: torch.Tensor, out: torch.Tensor) -> None:
    """Write flat values to `out`, cast to its type, without torch's threads."""
    for given, wanted in zip(values.split(BIT), out.split(BIT), strict=True):  # type: ignore[no-untyped-call]  # torch: split has no types
        wanted.copy_(given)


def _may_have_lost(out: Bytes, given: DType, dtype: DType) -> bool:
    """Return whether the exact count is worth its time: floats that are finite after a cast were not lost."""
    return dtype not in WITH_INFINITY or given.kind == "complex" or bool(odd_values(out, dtype))


def _blocks(transfer: Transfer, given: DType) -> Iterator[_Block]:
    """Yield the blocks of a transfer in the order of the slot."""
    wide = transfer.step.slot.spec.dtype.itemsize
    most = BLOCK // max(given.itemsize, wide)
    for segment in transfer.segments:
        count = segment.size // given.itemsize
        for skip in range(0, count, most):
            yield _Block(
                segment.network,
                segment.key,
                segment.start + skip * given.itemsize,
                segment.at // wide + skip,
                min(most, count - skip),
            )
