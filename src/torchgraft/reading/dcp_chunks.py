"""Tensors that lie in chunks, each chunk a small zip checkpoint of its own inside a larger file."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from torchgraft.core.errors import CorruptCheckpointError, printable
from torchgraft.reading.pickles.inert import TensorRef
from torchgraft.reading.sniff import read_file
from torchgraft.reading.tensors.leaves import Leaf, View

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from torchgraft.core.dtypes import DType
    from torchgraft.reading.disk.files import Window
    from torchgraft.reading.tensors.records import RecordBytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor and where its bytes lie."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    window: Window


class ChunkedLeaf(Leaf):
    """A tensor made of chunks that cover it exactly.

    Of several chunks, those rows are read and put together in which the wanted bytes lie; takes the size of these rows.
    """

    __slots__ = ("chunks", "dtype", "name", "shape", "views")

    def __init__(self, name: str, shape: tuple[int, ...], dtype: DType, chunks: tuple[Chunk, ...]) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.chunks = chunks
        self.views: dict[int, View] = {}

    @property
    def identity(self) -> Hashable:
        """Chunks are never the same memory."""
        return None

    @property
    def place(self) -> tuple[int, int]:
        """File number and offset of the first chunk."""
        return self.chunks[0].window.place(0) if self.chunks else (0, 0)

    def fill(self, buffer: memoryview, start: int) -> None:
        """Fill `buffer` with the bytes from `start` on."""
        if len(self.chunks) == 1:
            self._view(0).fill(buffer, start)
            return
        row = prod(self.shape[1:]) * self.dtype.itemsize
        first, last = start // row, -(-(start + len(buffer)) // row)
        band = self._rows(first, last)
        buffer[:] = band[start - first * row : start - first * row + len(buffer)]

    def _rows(self, first: int, last: int) -> memoryview:
        """Return these indices along the first dimension, put together from the chunks that hold parts of them."""
        import numpy as np

        band = np.empty((last - first, *self.shape[1:], self.dtype.itemsize), dtype=np.uint8)
        for number, chunk in enumerate(self.chunks):
            low, high = max(first, chunk.offsets[0]), min(last, chunk.offsets[0] + chunk.sizes[0])
            if low >= high or 0 in chunk.sizes:
                continue
            part = np.empty((high - low, *chunk.sizes[1:], self.dtype.itemsize), dtype=np.uint8)
            row = prod(chunk.sizes[1:]) * self.dtype.itemsize
            self._view(number).fill(part.reshape(-1).data, (low - chunk.offsets[0]) * row)
            inner = (slice(o, o + n) for o, n in zip(chunk.offsets[1:], chunk.sizes[1:], strict=True))
            band[(slice(low - first, high - first), *inner)] = part
        return band.reshape(-1).data

    @property
    def divisible(self) -> bool:
        """Whether all chunks can be read in part."""
        return all(self._view(number).divisible for number in range(len(self.chunks)))

    def check(self) -> None:
        """Compare the checksums of chunks that were read."""
        for view in self.views.values():
            view.check()

    def records(self) -> Iterable[RecordBytes]:
        """Return those of chunks that were looked up."""
        return [record for view in self.views.values() for record in view.records()]

    def _view(self, number: int) -> View:
        """Return the one tensor of a chunk, which must be as the table says."""
        found = self.views.get(number)
        if found is None:
            chunk = self.chunks[number]
            contents = read_file(chunk.window)
            ref = contents.tree
            label = chunk.window.label
            if not isinstance(ref, TensorRef):
                raise CorruptCheckpointError(f"{label}: a chunk of tensor {printable(self.name)} holds something else")
            leaf = contents.resolve.leaf(ref, self.name)
            if leaf.dtype is not self.dtype or leaf.shape != chunk.sizes:
                raise CorruptCheckpointError(
                    f"{label}: tensor {printable(self.name)} is stored with dtype {leaf.dtype} and shape {leaf.shape}, "
                    f"the metadata says dtype {self.dtype} and {chunk.sizes}"
                )
            if not isinstance(leaf, View):
                raise CorruptCheckpointError(f"{label}: a chunk of tensor {printable(self.name)} is no stored tensor")
            found = self.views[number] = leaf
        return found
