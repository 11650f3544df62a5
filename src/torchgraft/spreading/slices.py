"""A checkpoint of which one process reads boxes of tensors, each under a name of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.specs import Extent, Network, Shape, Source, SourceOver, TensorSpec
from torchgraft.core.types import ScalarType, Tensor
from torchgraft.core.values import bytes_of
from torchgraft.spreading.boxes import Box

# Runs of bytes shorter than this are cut out of the rows around them, read in bands of at most BAND bytes.
SHORT = 1024
BAND = 4 << 20
MADE = "(made whole)"


class SlicedSource(SourceOver):
    """The Source of boxes of another one's tensors, and of tensors that were made beforehand.

    Of a box only its own bytes are read, in runs; where runs are very short, the rows that hold them, in bands.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._specs = {network.path: network.specs for network in source.networks}
        self._boxes: dict[tuple[str, str], tuple[str, Box]] = {}
        self._made: dict[str, Tensor] = {}
        self.format = source.format
        self.metadata = source.metadata
        self.warnings = source.warnings

    def add(self, network: str, key: str, box: Box) -> str:
        """Return the name under which `box` of a tensor can be read."""
        name = key + box.words(self._specs[network][key].shape)
        self._boxes[network, name] = (key, box)
        return name

    def keep(self, name: str, value: Tensor) -> None:
        """Have a tensor that was made beforehand, in network MADE."""
        self._made[name] = value

    @property
    def networks(self) -> tuple[Network, ...]:
        """The boxes that were added, by the network they lie in, and what was made."""
        specs: dict[str, dict[str, TensorSpec]] = {}
        for (network, name), (key, box) in self._boxes.items():
            specs.setdefault(network, {})[name] = TensorSpec(name, box.sizes, self._specs[network][key].dtype)
        made = {n: TensorSpec(n, tuple(v.shape), DType.of(str(v.dtype))) for n, v in self._made.items()}
        return (*(Network(path, found) for path, found in specs.items()), *([Network(MADE, made)] if made else []))

    def position(self, network: str, key: str) -> tuple[int, int]:
        """Return the position of the tensor that the box is cut from."""
        return (-1, -1) if network == MADE else self._source.position(network, self._box(network, key)[0])

    def read(self, network: str, key: str) -> Tensor:
        """Return the box in memory of its own, or a tensor that was made."""
        import torch

        if network == MADE:
            return self._made[key]
        name, box = self._box(network, key)
        spec = self._specs[network][name]
        if box.covers(spec.shape):
            return self._source.read(network, name)
        dtype: ScalarType = getattr(torch, spec.dtype.label)
        out = torch.empty(box.sizes, dtype=dtype, device="cpu")
        if out.numel():
            self.read_into(network, key, bytes_of(out))
        return out

    def read_into(self, network: str, key: str, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with the box's bytes from byte `start` on, the box seen as a tensor in C order.

        Raises:
            CheckpointError: the bytes can't be read.
        """
        view = buffer if buffer.format == "B" and buffer.ndim == 1 else buffer.cast("B")
        if not view:
            return
        if network == MADE:
            view[:] = bytes_of(self._made[key])[start : start + len(view)]
            return
        name, box = self._box(network, key)
        spec = self._specs[network][name]
        offsets, length = runs_of(spec.shape, box, spec.dtype.itemsize)
        if length < SHORT and not box.covers(spec.shape):
            self._read_bands(network, name, box, view, start)
            return
        first, skip = divmod(start, length)
        done = 0
        for at in run_starts(offsets, first):
            size = min(length - skip, len(view) - done)
            self._source.read_into(network, name, view[done : done + size], at + skip)
            done, skip = done + size, 0
            if done == len(view):
                return

    def _read_bands(self, network: str, key: str, box: Box, view: memoryview, start: int) -> None:
        """Fill `view` from bands of whole rows along the first dimension; a single row may be larger than a band."""
        import numpy as np

        spec = self._specs[network][key]
        item = spec.dtype.itemsize
        row, mine = prod(spec.shape[1:]) * item, prod(box.sizes[1:]) * item
        rows = max(BAND // row, 1)
        inner = tuple(slice(a, a + n) for a, n in zip(box.starts[1:], box.sizes[1:], strict=True))
        low, high = start // mine, -(-(start + len(view)) // mine)
        for at in range(low, high, rows):
            count = min(rows, high - at)
            band = np.empty((count, *spec.shape[1:], item), dtype=np.uint8)
            self._source.read_into(network, key, band.reshape(-1).data, (box.starts[0] + at) * row)
            cut = np.ascontiguousarray(band[(slice(None), *inner)]).reshape(-1).data
            begin, end = max(start, at * mine), min(start + len(view), at * mine + len(cut))
            view[begin - start : end - start] = cut[begin - at * mine : end - at * mine]

    def divisible(self, network: str, key: str) -> bool:
        return network != MADE and self._source.divisible(network, self._box(network, key)[0])

    def extent(self, network: str, key: str, start: int, size: int) -> Extent | None:
        """Return where bytes of the box lie in an open file as they are wanted: within one run of the whole tensor."""
        if network == MADE or not size:
            return None
        name, box = self._box(network, key)
        spec = self._specs[network][name]
        offsets, length = runs_of(spec.shape, box, spec.dtype.itemsize)
        number, skip = divmod(start, length)
        if skip + size > length:
            return None
        return self._source.extent(network, name, next(run_starts(offsets, number)) + skip, size)

    def check(self, network: str, key: str) -> None:
        """Do nothing: what several processes read of a tensor is compared by all of them together."""

    def _box(self, network: str, key: str) -> tuple[str, Box]:
        try:
            return self._boxes[network, key]
        except KeyError:
            raise UsageError(f"{self.origin}: no part {printable(key)!r} in network {printable(network)!r}") from None


def run_starts(offsets: Sequence[range], first: int) -> Iterator[int]:
    """Yield where run number `first` and all later ones begin: each is a sum of one offset of each dimension."""
    for number in range(first, prod(map(len, offsets))):
        at = 0
        for along in reversed(offsets):
            number, index = divmod(number, len(along))  # noqa: PLW2901  # from the last dimension to the first
            at += along[index]
        yield at


def runs_of(shape: Shape, box: Box, itemsize: int) -> tuple[list[range], int]:
    """Return the offsets (in bytes, along each dimension) at which gapless runs of a box begin, and the length of each.

    The box is not empty.
    """
    inner = len(shape)
    while inner > 1 and box.sizes[inner - 1] == shape[inner - 1]:
        inner -= 1
    length = prod(box.sizes[inner - 1 :]) * itemsize if shape else itemsize
    offsets = []
    for dim in range(inner):
        step = prod(shape[dim + 1 :]) * itemsize
        count = 1 if dim == inner - 1 else box.sizes[dim]
        offsets.append(range(box.starts[dim] * step, box.starts[dim] * step + count * step, step))
    return offsets, length
