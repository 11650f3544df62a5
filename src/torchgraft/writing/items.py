"""Tensors to be written: name, shape, type, and their bytes piece by piece, wherever they come from."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError, WriteError, printable
from torchgraft.core.specs import TensorSpec

if TYPE_CHECKING:
    import torch

    from torchgraft.core.specs import Source

PIECE = 4 << 20

Pieces = Callable[[], Iterator[memoryview]]


@dataclass(frozen=True, slots=True)
class Item:
    """A tensor to be written. `pieces` gives its bytes in order: C order, little-endian; a piece is valid until the next."""

    spec: TensorSpec
    pieces: Pieces

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name


def of_tensor(name: str, tensor: torch.Tensor) -> Item:
    """Return a tensor of the caller as an item: a view of plain CPU memory, else a copy while it is written.

    Raises:
        UsageError: an element type that no format holds.
        WriteError: the machine is big-endian.
    """
    import torch

    try:
        dtype = DType.of(str(tensor.dtype))
    except KeyError:
        raise UsageError(f"{printable(name)} is {tensor.dtype}, which is not written; cast it") from None

    def pieces() -> Iterator[memoryview]:
        plain = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
        if plain.numel():
            data = plain.reshape(-1).view(torch.uint8).numpy().data
            yield from (data[at : at + PIECE] for at in range(0, len(data), PIECE))

    _little_endian()
    return Item(TensorSpec(name, tuple(tensor.shape), dtype), pieces)


def of_source(source: Source, network: str, spec: TensorSpec) -> Item:
    """Return a tensor of an opened checkpoint as an item, read into one buffer of a few megabytes.

    Raises:
        WriteError: the machine is big-endian.
    """

    def pieces() -> Iterator[memoryview]:
        buffer = memoryview(bytearray(min(PIECE, spec.nbytes)))
        for at in range(0, spec.nbytes, PIECE):
            piece = buffer[: min(PIECE, spec.nbytes - at)]
            source.read_into(network, spec.name, piece, at)
            yield piece

    _little_endian()
    return Item(spec, pieces)


def _little_endian() -> None:
    if sys.byteorder != "little":
        raise WriteError("writing on a big-endian machine is not supported: files hold little-endian values")
