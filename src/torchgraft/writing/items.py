"""Tensors to be written: their bytes piece by piece, wherever they come from, and how they get to their places in a file."""

from __future__ import annotations

import os
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import NamedTuple

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import CorruptCheckpointError, UsageError, WriteError, printable
from torchgraft.core.specs import Source, TensorSpec, pieces_of
from torchgraft.core.system.commit import put
from torchgraft.core.types import ScalarType, Tensor
from torchgraft.core.values import bytes_of

PIECE = 4 << 20
MAX_THREADS = 4
_WORTH_THREADS = 8 << 20

Pieces = Callable[[], Iterator[memoryview]]


@dataclass(frozen=True, slots=True)
class Item:
    """A tensor to be written. `pieces` gives its bytes in order: C order, little-endian; a piece is valid until the next.

    `stated` is the SHA-256 that those bytes should have, where the source says so.
    """

    spec: TensorSpec
    pieces: Pieces
    stated: str = ""

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name


def of_tensor(name: str, tensor: Tensor) -> Item:
    """Return a tensor of the caller as an item: a view of plain CPU memory, else a copy while it is written.

    Raises:
        UsageError: an element type, or a layout, that no format holds.
        WriteError: the machine is big-endian.
    """
    import torch

    try:
        dtype = DType.of(str(tensor.dtype))
    except KeyError:
        raise UsageError(f"{printable(name)} is {tensor.dtype}, which is not written; cast it") from None

    if tensor.layout is not torch.strided or tensor.is_nested:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise UsageError(f"{printable(name)} is {kind}, which is not written; make it dense")

    def pieces() -> Iterator[memoryview]:
        data = bytes_of(tensor)
        yield from (data[at : at + PIECE] for at in range(0, len(data), PIECE))

    _little_endian()
    return Item(TensorSpec(name, tuple(tensor.shape), dtype), pieces)


def of_source(source: Source, network: str, spec: TensorSpec, stated: str = "") -> Item:
    """Return a tensor of an opened checkpoint as an item, read into one buffer of a few megabytes.

    Raises:
        WriteError: the machine is big-endian.
    """
    _little_endian()
    return Item(spec, partial(pieces_of, source, network, spec, PIECE), stated)


def cast(item: Item, dtype: DType, underflowed: Callable[[str], None]) -> Item:
    """Return a real floating-point item with its values rounded to `dtype`, piece by piece.

    `underflowed` is called with the name of one of which nothing but zeros is left, while it is written.

    Raises (while it is written):
        UsageError: a finite value is too large for `dtype`.
        CorruptCheckpointError: the values are not those that the source states the SHA-256 of.
    """
    import torch

    old, new = (getattr(torch, kind.label) for kind in (item.spec.dtype, dtype))
    narrower = not dtype.holds(item.spec.dtype)

    def pieces() -> Iterator[memoryview]:
        digest, held, left = sha256(), False, False
        for piece in item.pieces():
            if item.stated:
                digest.update(piece)
            values = torch.frombuffer(piece, dtype=old)
            rounded = values.to(new)
            if narrower and len(values):
                _expect_range(item.name, values, dtype, new)
            if narrower and not left:
                left = bool(rounded.any())
                held = held or left or bool(values.any())
            yield rounded.view(torch.uint8).numpy().data
        if held and not left:
            underflowed(item.name)
        check_stated(item, digest.hexdigest())

    return Item(TensorSpec(item.name, item.spec.shape, dtype), pieces)


def _expect_range(name: str, values: Tensor, dtype: DType, kind: ScalarType) -> None:
    """Raise UsageError where a finite value is too large for `dtype`, which torch calls `kind`."""
    import torch

    if torch.stack(values.aminmax()).to(kind).isfinite().all():
        return
    finite = values[values.isfinite()]
    if not finite.to(kind).isfinite().all():
        said = f"{printable(name)} holds {float(finite.abs().max()):.4g}, which {dtype} can't"
        wider = ", ".join(wide.label for wide in (DType.BF16, DType.F32, DType.F64) if not dtype.holds(wide))
        raise UsageError(f"{said}; choose a type with more range ({wider})")


def check_stated(item: Item, found: str) -> None:
    """Compare the SHA-256 of an item's bytes with the one its source states.

    Raises:
        CorruptCheckpointError: they differ.
    """
    if item.stated and item.stated != found:
        raise CorruptCheckpointError(
            f"{printable(item.name)} holds other values than the SHA-256 beside it states: the file was damaged or "
            "changed after it was written"
        )


def _little_endian() -> None:
    if sys.byteorder != "little":
        raise WriteError("writing on a big-endian machine is not supported: files hold little-endian values")


class Sums(NamedTuple):
    """SHA-256 (hex) and CRC-32 of a tensor's bytes."""

    sha256: str
    crc: int


class Streamer:
    """Writes items to their offsets. Memory: one piece for each thread."""

    def __init__(self, handle: int, placed: Sequence[tuple[Item, int]], tick: Callable[[int], None]) -> None:
        self._handle = handle
        self._queue = deque(enumerate(placed))
        self._tick = tick
        self._sums: list[Sums | None] = [None] * len(placed)
        self._stopped = False
        worth = sum(item.spec.nbytes for item, _ in placed) >= _WORTH_THREADS
        self._threads = min(os.cpu_count() or 1, MAX_THREADS, len(placed)) if worth else 1

    def run(self) -> list[Sums]:
        """Write everything and return the sums, one for each item.

        Raises:
            CheckpointError: an item can't be read, or has not the SHA-256 that its source states.
            OSError: the file can't be written. No thread writes any more when this returns or raises.
        """
        if self._threads == 1:
            self._work()
        else:
            with ThreadPoolExecutor(self._threads, "torchgraft-writer") as pool:
                try:
                    for done in as_completed([pool.submit(self._work) for _ in range(self._threads)]):
                        done.result()
                finally:
                    self._stopped = True
        return [sums for sums in self._sums if sums is not None]

    def _work(self) -> None:
        while not self._stopped:
            try:
                number, (item, at) = self._queue.popleft()
            except IndexError:
                return
            self._sums[number] = self._copy(item, at)

    def _copy(self, item: Item, at: int) -> Sums:
        digest, crc, done = sha256(), 0, 0
        for piece in item.pieces():
            if self._stopped:
                break
            digest.update(piece)
            crc = zlib.crc32(piece, crc)
            done += put(self._handle, piece, at + done)
            self._tick(len(piece))
        else:
            check_stated(item, digest.hexdigest())
        return Sums(digest.hexdigest(), crc)
