"""Tensors of a checkpoint before they are values: shape, element type, and how their bytes are had on request."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from threading import local
from typing import Protocol

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import LimitExceededError, UnsupportedCheckpointError
from torchgraft.core.layout import identity_of
from torchgraft.core.specs import Shape, c_strides
from torchgraft.core.types import Tensor
from torchgraft.core.values import bytes_of
from torchgraft.reading.containers.zip_records import RecordBytes
from torchgraft.reading.disk.files import Window

MAX_DIMS = 64
FREE_EXPANSION = 256 << 20
MAX_EXPANSION = 64


class StoredTensor(ABC):
    """One tensor of a checkpoint: shape and element type are known, its bytes come on request.

    `identity` is what two tensors share when they are the very same memory, None where that can't be; `position` is the
    file number and the offset.
    """

    __slots__ = ()

    shape: Shape
    dtype: DType

    @property
    def identity(self) -> Hashable:
        """What two tensors of the same memory share."""
        return None

    @property
    @abstractmethod
    def position(self) -> tuple[int, int]:
        """File number and offset."""

    @abstractmethod
    def fill(self, buffer: memoryview, start: int) -> None:
        """Fill `buffer` with the bytes from `start` on, C order and native byte order."""

    @property
    def divisible(self) -> bool:
        """Whether a part can be read without reading the rest."""
        return False

    def check(self) -> None:
        """Compare a checksum that covers more than the parts that were read, where there is one."""
        return

    def records(self) -> Iterable[RecordBytes]:
        """Return the records with a checksum that the tensor lies in, those that were looked up so far."""
        return ()


class Bytes(Protocol):
    """A run of bytes in which views lie: a storage."""

    @property
    def nbytes(self) -> int:
        """Its size."""
        ...

    @property
    def position(self) -> tuple[int, int]:
        """File number and offset of its first byte."""
        ...

    def fill(self, buffer: memoryview, start: int) -> None:
        """Fill `buffer` from byte `start` on."""
        ...


@dataclass(slots=True, eq=False)
class FileBytes:
    """Bytes that lie in a file as they are."""

    window: Window
    offset: int
    nbytes: int

    @property
    def position(self) -> tuple[int, int]:
        return self.window.position(self.offset)

    def fill(self, buffer: memoryview, start: int) -> None:
        self.window.read_into(buffer, self.offset + start)


@dataclass(slots=True, eq=False)
class MemoryBytes:
    """Bytes that are in memory already, because they stood inside a pickle."""

    data: bytes
    position: tuple[int, int] = (0, 0)

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def fill(self, buffer: memoryview, start: int) -> None:
        buffer[:] = self.data[start : start + len(buffer)]


class JoinedBytes:
    """Runs of bytes one after the other."""

    __slots__ = ("nbytes", "parts")

    def __init__(self, parts: Sequence[Bytes]) -> None:
        self.parts = parts
        self.nbytes = sum(part.nbytes for part in parts)

    @property
    def position(self) -> tuple[int, int]:
        return self.parts[0].position if self.parts else (0, 0)

    def fill(self, buffer: memoryview, start: int) -> None:
        done = 0
        for part in self.parts:
            count = min(part.nbytes - start, len(buffer) - done)
            if count > 0:
                part.fill(buffer[done : done + count], start)
                done += count
            start = max(start - part.nbytes, 0)


@dataclass(slots=True, eq=False)
class TensorView(StoredTensor):
    """A tensor in a run of bytes. `strides` count elements and are None where the elements lie in C order.

    `offset` is in bytes; `swap` is the unit, in bytes, of which the byte order is the other one (0: none).
    """

    source: Bytes
    dtype: DType
    shape: Shape
    offset: int = 0
    strides: Shape | None = None
    swap: int = 0

    @property
    def identity(self) -> Hashable:
        """Storage, offset, shape and strides."""
        return (id(self.source), self.offset, self.shape, self.strides, self.dtype)

    @property
    def position(self) -> tuple[int, int]:
        number, offset = self.source.position
        return number, offset + self.offset

    def fill(self, buffer: memoryview, start: int) -> None:
        if self.strides is None and not self.swap:
            self.source.fill(buffer, self.offset + start)
            whole = len(buffer) == self.source.nbytes
            if not whole and isinstance(self.source, RecordBytes) and not self.is_whole:
                self.source.check()
            return
        data = self._gathered(start + len(buffer))
        buffer[:] = data[start : start + len(buffer)]

    @property
    def divisible(self) -> bool:
        """Whether the bytes lie as they are wanted, and uncompressed."""
        packed = isinstance(self.source, RecordBytes) and self.source.is_packed
        return self.strides is None and not self.swap and not packed

    def check(self) -> None:
        if isinstance(self.source, RecordBytes):
            self.source.check()

    def records(self) -> Iterable[RecordBytes]:
        return (self.source,) if isinstance(self.source, RecordBytes) else ()

    @property
    def is_whole(self) -> bool:
        """Whether the view takes up all of its storage."""
        return prod(self.shape) * self.dtype.itemsize == self.source.nbytes

    def _gathered(self, end: int) -> memoryview:
        """Return all bytes in C order; kept for the next piece until the last was taken."""
        kept: tuple[TensorView, memoryview] | None = getattr(_KEPT, "last", None)
        data = kept[1] if kept is not None and kept[0] is self else gather(self)
        _KEPT.last = None if end >= len(data) else (self, data)
        return data


_KEPT = local()


def gather(view: TensorView) -> memoryview:
    """Return the elements of a strided or foreign-order view as bytes. Takes its range of the storage and the result."""
    import numpy as np

    size = view.dtype.itemsize
    if 0 in view.shape:
        return memoryview(b"")
    strides = view.strides if view.strides is not None else c_strides(view.shape)
    last = sum((n - 1) * s for n, s in zip(view.shape, strides, strict=True))
    raw = bytearray((last + 1) * size)
    view.source.fill(memoryview(raw), view.offset)
    if isinstance(view.source, RecordBytes):
        view.source.check()
    flat = np.frombuffer(raw, dtype=np.dtype((np.void, size)))
    steps = tuple(s * size for s in strides)
    taken = np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, view.shape, steps, writeable=False))
    out = np.frombuffer(taken.tobytes(), dtype=np.uint8)
    if view.swap > 1:
        out = np.ascontiguousarray(out.reshape(-1, view.swap)[:, ::-1])
    return memoryview(out.tobytes())


class HeldTensor(StoredTensor):
    """A tensor that the caller holds in memory, under `name` there.

    Raises:
        KeyError: its element type is unknown.
        RuntimeError: it has no shape.
    """

    __slots__ = ("dtype", "name", "number", "shape", "tensor")

    def __init__(self, tensor: Tensor, number: int = 0, name: str = "") -> None:
        self.tensor = tensor
        self.name = name
        self.shape = tuple(tensor.shape)
        self.dtype = DType.of(str(tensor.dtype))
        self.number = number

    @property
    def position(self) -> tuple[int, int]:
        """The order in which the tensors were given."""
        return 0, self.number

    @property
    def identity(self) -> Hashable:
        """Address, shape, strides and signs; None for tensors without memory."""
        return identity_of(self.tensor)

    @property
    def divisible(self) -> bool:
        """Whether the tensor's bytes can be had without making it anew."""
        return self.tensor.device.type == "cpu" and self.tensor.is_contiguous()

    @property
    def values(self) -> Tensor:
        """The tensor, or a copy on the CPU of one that lies elsewhere.

        Raises:
            UnsupportedCheckpointError: it has no values, as it is on the meta device.
        """
        if self.tensor.is_meta:
            raise UnsupportedCheckpointError(
                f"<dict>: tensor {self.name} is on the meta device, where nothing has values: plan() takes it, load() can't"
            )
        return self.tensor if self.tensor.device.type == "cpu" else self.tensor.cpu()

    def fill(self, buffer: memoryview, start: int) -> None:
        import numpy as np

        try:
            raw = np.frombuffer(bytes_of(self.values), np.uint8)
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise UnsupportedCheckpointError(
                f"<dict>: the values of tensor {self.name}, a {type(self.tensor).__name__}, can't be had as bytes ({error})"
            ) from error
        # numpy lets other threads run meanwhile, a memoryview doesn't
        np.copyto(np.frombuffer(buffer, np.uint8), raw[start : start + len(buffer)])


def check_expansion(label: str, name: str, nbytes: int, stored: int) -> None:
    """Refuse a view that repeats few bytes into very many."""
    if nbytes > FREE_EXPANSION and nbytes > MAX_EXPANSION * stored:
        raise LimitExceededError(
            f"{label}: tensor {name} repeats {stored} stored bytes into {nbytes}; at most {MAX_EXPANSION} times is read "
            f"beyond {FREE_EXPANSION >> 20} MiB"
        )


class SignFlipped(StoredTensor):
    """A view that torch saved with its conjugate or negative bit set: signs are turned, nothing else changes.

    Turning a sign is turning the highest bit, also of NaN, as torch does when it resolves such a view.
    """

    __slots__ = ("_signs", "conj", "dtype", "inner", "neg", "shape")

    def __init__(self, inner: StoredTensor, *, conj: bool, neg: bool) -> None:
        self.inner = inner
        self.shape = inner.shape
        self.dtype = inner.dtype
        self.conj = conj
        self.neg = neg
        size = inner.dtype.itemsize
        real, imaginary = {size // 2 - 1}, {size - 1}
        if inner.dtype.kind != "complex":
            real, imaginary = {size - 1}, set()
        # bytes of an element that hold a sign to turn; what both flags turn stays as it is
        self._signs = sorted((real | imaginary if neg else set()) ^ (imaginary if conj else set()))

    @property
    def identity(self) -> Hashable:
        return (self.inner.identity, self.conj, self.neg)

    @property
    def position(self) -> tuple[int, int]:
        return self.inner.position

    def records(self) -> Iterable[RecordBytes]:
        return self.inner.records()

    def fill(self, buffer: memoryview, start: int) -> None:
        """Fill `buffer` with the bytes from `start` on, signs turned."""
        import numpy as np

        self.inner.fill(buffer, start)
        raw = np.frombuffer(buffer, dtype=np.uint8)
        for sign in self._signs:
            raw[(sign - start) % self.dtype.itemsize :: self.dtype.itemsize] ^= 0x80
