"""Tensors that lie in chunks: each a tensor of some file, or a small zip checkpoint of its own inside a larger file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import prod

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import CheckpointError, CorruptCheckpointError, LimitExceededError, printable
from torchgraft.reading.containers.zip_records import RecordBytes
from torchgraft.reading.disk.files import Window
from torchgraft.reading.pickles.inert import TensorRef
from torchgraft.reading.sniff import read_file
from torchgraft.reading.tensors import StoredTensor, TensorView

MAX_PAIRS = 256
MAX_CELLS = 1 << 26


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor and where its bytes lie: a tensor, or the zip checkpoint that holds it alone."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    held: Window | TensorView

    @property
    def position(self) -> tuple[int, int]:
        """File number and offset."""
        return self.held.position if isinstance(self.held, TensorView) else self.held.position(0)


def check_cover(shape: tuple[int, ...], chunks: Sequence[Chunk], bad: Callable[[str], CheckpointError]) -> None:
    """Raise what `bad` makes of a text unless each element of a tensor lies in one chunk."""
    if sum(prod(c.sizes) for c in chunks) != prod(shape):
        raise bad(f"of shape {shape}: its {len(chunks)} chunks don't cover it exactly")
    if len(chunks) > MAX_PAIRS:
        _check_cells(chunks, bad)
        return
    for a, b in combinations(chunks, 2):
        if all(
            max(p, q) < min(p + n, q + m) for p, q, n, m in zip(a.offsets, b.offsets, a.sizes, b.sizes, strict=True)
        ):
            raise bad(f"has chunks that overlap, at {a.offsets} and {b.offsets}; they don't cover it")


def _check_cells(chunks: Sequence[Chunk], bad: Callable[[str], CheckpointError]) -> None:
    """Mark the cells of the coarsest grid that all chunks lie on: none may be taken twice."""
    import numpy as np

    edges = [
        sorted({at for c in chunks for at in (c.offsets[d], c.offsets[d] + c.sizes[d])})
        for d in range(len(chunks[0].offsets))
    ]
    if prod(map(len, edges)) > MAX_CELLS:
        raise LimitExceededError(str(bad(f"is cut into {len(chunks)} crossing chunks")))
    taken = np.zeros(tuple(map(len, edges)), dtype=bool)
    numbers = [{at: number for number, at in enumerate(line)} for line in edges]
    for chunk in chunks:
        box = tuple(
            slice(number[o], number[o + n]) for number, o, n in zip(numbers, chunk.offsets, chunk.sizes, strict=True)
        )
        if taken[box].any():
            raise bad(f"has chunks that overlap, one of them at {chunk.offsets}; they don't cover it")
        taken[box] = True


@dataclass(slots=True, eq=False)
class ChunkedTensor(StoredTensor):
    """A tensor made of chunks that cover it exactly.

    Of several chunks, those rows are read and put together in which the wanted bytes lie; takes the size of these rows.
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    chunks: tuple[Chunk, ...]
    views: dict[int, StoredTensor] = field(default_factory=dict)

    @property
    def position(self) -> tuple[int, int]:
        """File number and offset of the first chunk."""
        return self.chunks[0].position if self.chunks else (0, 0)

    def fill(self, buffer: memoryview, start: int) -> None:
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
        return all(self._view(number).divisible for number in range(len(self.chunks)))

    def check(self) -> None:
        for view in self.views.values():
            view.check()

    def records(self) -> Iterable[RecordBytes]:
        return [record for view in self.views.values() for record in view.records()]

    def _view(self, number: int) -> StoredTensor:
        """Return the one tensor of a chunk, which must be as the table says."""
        found = self.views.get(number)
        if found is None:
            chunk = self.chunks[number]
            if isinstance(chunk.held, TensorView):
                return chunk.held
            contents = read_file(chunk.held)
            ref = contents.tree
            label = chunk.held.label
            if not isinstance(ref, TensorRef):
                raise CorruptCheckpointError(f"{label}: a chunk of tensor {printable(self.name)} holds something else")
            tensor = contents.resolve.tensor(ref, self.name)
            if tensor.dtype is not self.dtype or tensor.shape != chunk.sizes:
                raise CorruptCheckpointError(
                    f"{label}: tensor {printable(self.name)} is stored with dtype {tensor.dtype} and shape {tensor.shape}, "
                    f"the metadata says dtype {self.dtype} and {chunk.sizes}"
                )
            found = self.views.setdefault(number, tensor)  # one for all threads: it takes checksums of what they read
        return found
