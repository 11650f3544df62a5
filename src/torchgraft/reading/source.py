"""An opened checkpoint: what was found, and the values on request."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from math import prod
from typing import Any, Self

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import MAX_MESSAGE, CorruptCheckpointError, UsageError, printable
from torchgraft.core.specs import Extent, Network, Piece, Record
from torchgraft.core.types import ScalarType, Tensor
from torchgraft.reading.coalescing import Spot, read_many, read_together, spot_of
from torchgraft.reading.finding.catalog import Catalog
from torchgraft.reading.tensors import HeldTensor, StoredTensor

MOST_SPOTS = 1 << 14  # of a million tensors they would take more memory than all else that is known of them


class OpenedCheckpoint:
    """The Source of every format: networks by path, each tensor read on request."""

    __slots__ = (
        "_closed", "_files", "_lent", "_spots", "_tensors", "format", "metadata", "networks", "origin", "warnings",
    )  # fmt: skip

    def __init__(self, *, origin: str, format: str, found: Catalog, files: Sequence[Any] = ()) -> None:  # noqa: A002
        self.origin = origin
        self.format = format
        self.networks: tuple[Network, ...] = tuple(found.networks)
        self.metadata: Mapping[str, object] = found.metadata
        self.warnings: tuple[str, ...] = tuple(printable(text, MAX_MESSAGE) for text in found.warnings)
        self._tensors = found.tensors
        self._files = files
        self._lent = self._closed = False
        self._spots: dict[tuple[str, str], Spot | None] = {}

    @property
    def stamps(self) -> dict[str, tuple[int, ...]]:
        files = (one for file in self._files for one in (file, *file.companions))
        return {os.path.realpath(file.path): file.stamp for file in files if file.fd >= 0}  # not what was given open

    def position(self, network: str, key: str) -> tuple[int, int]:
        return self._tensor(network, key).position

    def read(self, network: str, key: str) -> Tensor:
        import torch

        tensor = self._tensor(network, key)
        if isinstance(tensor, HeldTensor):
            return tensor.values
        dtype: ScalarType = getattr(torch, tensor.dtype.label)
        if 0 in tensor.shape:
            return torch.empty(tensor.shape, dtype=dtype, device="cpu")
        raw = torch.empty(prod(tensor.shape) * tensor.dtype.itemsize, dtype=torch.uint8, device="cpu")
        self.read_into(network, key, raw.numpy().data)
        return raw.view(dtype).reshape(tensor.shape)

    def read_into(self, network: str, key: str, buffer: memoryview, start: int = 0) -> None:
        tensor = self._tensor(network, key)
        view = buffer if buffer.format == "B" and buffer.ndim == 1 else buffer.cast("B")
        if not view:
            return
        tensor.fill(view, start)
        if tensor.dtype is DType.BOOL and bytes(view).translate(None, b"\0\1"):
            raise CorruptCheckpointError(
                f"{self.origin}: tensor {printable(key)} is bool but holds other bytes than 0 and 1"
            )

    def read_pieces(self, pieces: Sequence[Piece]) -> None:
        read_together([(self._spot(piece.network, piece.key), piece) for piece in pieces], self.read_into)

    def read_many(
        self, tensors: Sequence[tuple[str, str]], starts: Sequence[int], sizes: Sequence[int], buffer: memoryview
    ) -> None:
        def alone(number: int) -> None:
            start = starts[number]
            self.read_into(*tensors[number], buffer[start : start + sizes[number]])

        read_many([self._tensor(network, key) for network, key in tensors], starts, sizes, buffer, alone)

    def divisible(self, network: str, key: str) -> bool:
        return self._tensor(network, key).divisible

    def extent(self, network: str, key: str, start: int, size: int) -> Extent | None:
        spot = self._spot(network, key)
        if spot is None or spot.file.fd < 0 or not 0 < size <= spot.size - start:
            return None
        spot.file.compare_stamp()
        return Extent(spot.file.fd, spot.offset + start, size)

    def check(self, network: str, key: str) -> None:
        self._tensor(network, key).check()

    def unchecked(self) -> dict[tuple[int, int], Record]:
        records = (record for tensor in self.tensors() for record in tensor.records())
        return {record.position: record for record in records if record.partial}

    def tensors(self) -> Iterator[StoredTensor]:
        """Yield the tensors of all networks."""
        for named in self._tensors.values():
            yield from named.values()

    def replaced(self, others: Mapping[int, StoredTensor]) -> Self:
        """Return the same checkpoint with other tensors in place of those with these ids."""
        made = copy(self)
        made._tensors = {  # noqa: SLF001  # one of our own
            path: {name: others.get(id(tensor), tensor) for name, tensor in named.items()}
            for path, named in self._tensors.items()
        }
        made._spots = {}  # noqa: SLF001  # one of our own
        return made

    def lent(self) -> Self:
        """Return the same checkpoint with a `close` that leaves its files open.

        Raises:
            UsageError: they are closed already.
        """
        if self._closed:
            raise UsageError(f"{self.origin}: this opened checkpoint was closed; open it again")
        made = copy(self)
        made._lent = True  # noqa: SLF001  # one of our own
        return made

    def close(self) -> None:
        if self._lent:
            return
        self._closed = True
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tensor(self, network: str, key: str) -> StoredTensor:
        try:
            return self._tensors[network][key]
        except KeyError:
            raise UsageError(f"{self.origin}: no tensor {printable(key)!r} in network {printable(network)!r}") from None

    def _spot(self, network: str, key: str) -> Spot | None:
        """Return where a tensor lies in a file as it is wanted; kept, as most are read in parts, and twice."""
        try:
            return self._spots[network, key]
        except KeyError:
            if len(self._spots) >= MOST_SPOTS:
                self._spots = {}
            found = self._spots[network, key] = spot_of(self._tensor(network, key))
            return found
