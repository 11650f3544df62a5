"""Matrices that the file stores the other way round: read by whole rows, a block at a time, and put in as columns.

A block is transposed in memory of its own, where it stays in the cache, and goes into the slot from there: stretches of each
row of the slot, not single values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from torchgraft.applying.chunks import Part
from torchgraft.applying.memory import Bytes, Scratch
from torchgraft.core.errors import ApplyError
from torchgraft.core.specs import Piece, Source
from torchgraft.core.system.checksums import crc32
from torchgraft.core.written import Sample, Written

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Transposes:
    """Reads, turns and writes blocks of rows. Memory: two blocks for each thread."""

    def __init__(self, source: Source, written: Written) -> None:
        self._source = source
        self._written = written
        self._scratch = Scratch()
        self._sums: dict[tuple[str, int], int] = {}

    def take(self, part: Part) -> Bytes:
        """Return the bytes of a block as the file has them; write it, unless it is to be read once more."""
        raw = self._read(part)
        self._sums[part.transfer.name, part.start] = crc32(raw.data, 0)
        block = self._transposed(part, raw)
        part.transfer.samples.extend(_samples(part, block))
        if not part.transfer.read_twice:
            self._put(part, block)
        return raw

    def write(self, part: Part) -> None:
        """Read once more, and write."""
        raw = self._read(part)
        if crc32(raw.data, 0) != self._sums[part.transfer.name, part.start]:
            raise ApplyError(f"{part.transfer.name}: the file holds other values than a moment ago: it has changed")
        self._put(part, self._transposed(part, raw))

    def _read(self, part: Part) -> Bytes:
        raw = self._scratch.take(part.size, "raw")
        self._source.read_pieces([Piece(part.segment.network, part.segment.key, part.start, raw.data)])
        return raw

    def _transposed(self, part: Part, raw: Bytes) -> NDArray[np.generic]:
        """Return a block as columns of the slot, row by row. Torch turns a matrix in tiles, numpy value by value."""
        import torch

        lying = raw.view(_kind(part)).reshape(-1, _slot(part).shape[0])
        block = self._scratch.take(part.size, "block").view(_kind(part)).reshape(lying.shape[::-1])
        torch.from_numpy(block).copy_(torch.from_numpy(lying).t())
        return block

    def _put(self, part: Part, block: NDArray[np.generic]) -> None:
        """Write a block into its columns, and compare what lies there then."""
        place = _slot(part)[:, _columns(part)]
        place[...] = block
        if not np.array_equal(place, block):
            raise ApplyError(f"{part.transfer.name}: what lies in the slot is not what was read and transposed")
        self._written.compared.add(part.transfer.name)


def _kind(part: Part) -> np.dtype[np.signedinteger[np.typing.NBitBase]]:
    """Return integers of the size of an element: they are moved, whatever they mean."""
    return np.dtype(f"i{part.transfer.step.slot.spec.dtype.itemsize}")


def _slot(part: Part) -> NDArray[np.generic]:
    return part.transfer.data.view(_kind(part)).reshape(part.transfer.step.slot.spec.shape)


def _columns(part: Part) -> slice:
    """Return the columns of the slot that the rows of a part become."""
    row = part.transfer.row
    return slice(part.start // row, (part.start + part.size) // row)


def _samples(part: Part, block: NDArray[np.generic]) -> list[Sample]:
    """Return checksums of a block's part of the first, the middle and the last row of the slot, for the end."""
    count, width = _slot(part).shape
    unit, first = block.itemsize, _columns(part).start
    out = []
    for row in sorted({0, count // 2, count - 1}):
        start = (row * width + first) * unit
        out.append(Sample(start, start + block.shape[1] * unit, crc32(block[row].data, 0)))
    return out
