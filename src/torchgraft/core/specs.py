"""What is known of tensors before any value is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple, Protocol, Self

from torchgraft.core.dtypes import DType
from torchgraft.core.system.checksums import Partial
from torchgraft.core.types import Tensor

Shape = tuple[int, ...]


def c_strides(shape: Shape) -> Shape:
    """Return the strides of C order, in elements."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor known by name, shape and element type."""

    name: str
    shape: Shape
    dtype: DType

    @property
    def numel(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a convolution or norm is set to that its tensors don't show.

    `keeps_size`: the output is as large as the input (stride one, and padding to match). `eps` is a norm's.
    """

    groups: int = 1
    keeps_size: bool = True
    eps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One storage of the model, under all its names.

    `owner` is the dotted path of the module that registers the tensor, `kind` that module's class name ("Linear",
    "Conv2d", "" where unknown: the target is only a list of names and shapes), `persistent` is False for buffers that
    no state dict holds. `order` counts in registration order. `setting` is there for convolutions and norms. `is_linear`
    says that the module is of torch's Linear or of a subclass, which keeps its matrix [out, in] as that does.
    """

    spec: TensorSpec
    aliases: tuple[str, ...] = ()
    owner: str = ""
    kind: str = ""
    is_buffer: bool = False
    persistent: bool = True
    order: int = 0
    setting: Setting | None = None
    is_linear: bool = False

    @property
    def name(self) -> str:
        """The canonical name: the first under which the model registers it."""
        return self.spec.name

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical name and all aliases."""
        return (self.spec.name, *self.aliases)

    @property
    def role(self) -> str:
        """The last segment of the name: weight, bias, running_mean ..."""
        return self.spec.name.rpartition(".")[2]

    @property
    def groups(self) -> int:
        """Into how many groups a convolution parts its channels; 1 for all else."""
        return self.setting.groups if self.setting else 1


@dataclass(frozen=True, slots=True)
class Target:
    """A model as its slots: persistent ones first-registered first, and the fresh-only buffers that no file holds.

    `classes` maps the dotted path of each module to its class name ("" is the model itself). `library` is the package
    that most of the model's own modules come from, "" when that is torch alone or unknown. `heads` maps the path of
    modules that say how many attention heads they have to that number. `grids` are the (height, width) in patches that
    modules say they cut images into.
    """

    slots: tuple[Slot, ...]
    classes: Mapping[str, str]
    is_meta: bool = False
    library: str = ""
    heads: Mapping[str, int] = field(default_factory=dict)
    grids: frozenset[tuple[int, int]] = frozenset()

    def heads_at(self, path: str) -> int | None:
        """Return the number of heads that the module at `path` says, or else the nearest module around it."""
        while path not in self.heads:
            if not path:
                return None
            path = path.rpartition(".")[0]
        return self.heads[path]


@dataclass(frozen=True, slots=True)
class Network:
    """One state dict found in a checkpoint: where it lies, its tensors in file order, and what it seems to be.

    `path` joins the container keys with "/" ("" is the top level). `role` is "model", "ema", "optimizer" or "other".
    `shared` maps a name to the first name with the very same memory in the file.
    """

    path: str
    specs: Mapping[str, TensorSpec]
    role: str = "model"
    shared: Mapping[str, str] | None = None


class Piece(NamedTuple):
    """Bytes of one tensor, from byte `start` on, and the memory that they are read into."""

    network: str
    key: str
    start: int
    buffer: memoryview


class Extent(NamedTuple):
    """Bytes that lie in a file as they are wanted: `size` from byte `offset` on of the open file `fd`."""

    fd: int
    offset: int
    size: int


class Record(Protocol):
    """Bytes of a file that have one checksum."""

    @property
    def partial(self) -> Partial | None:
        """What was read of it; None where nothing was, or nothing is to be compared any more."""
        ...

    def agrees(self, checksum: int) -> bool:
        """Return whether the record has this checksum; nothing is to be compared any more then."""
        ...

    def check(self, limit: int = ...) -> None:
        """Read all of it and compare its checksum, unless it is larger than `limit` bytes.

        Raises:
            CheckpointError: it is wrong.
        """
        ...


class Source(Protocol):
    """An opened checkpoint: everything about its tensors, and their values on request.

    `read` and its like name a tensor by network path and key. They may be called from several threads.
    """

    @property
    def origin(self) -> str:
        """The path as given, or a description such as `<dict>`."""
        ...

    @property
    def format(self) -> str:
        """The format as found from the bytes, e.g. `torch zip`, `safetensors`."""
        ...

    @property
    def networks(self) -> tuple[Network, ...]:
        """All state dicts in the file, in file order."""
        ...

    @property
    def metadata(self) -> Mapping[str, object]:
        """Plain facts beside the tensors: epoch, hyper-parameters, class names, state-dict versions."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """Harmless oddities found while opening."""
        ...

    @property
    def stamps(self) -> Mapping[str, tuple[int, ...]]:
        """Size and times of change of each file by its path, links resolved; empty for what lies in memory."""
        ...

    def position(self, network: str, key: str) -> tuple[int, int]:
        """Return (file number, byte offset) of a tensor: reading in this order is reading in file order."""
        ...

    def read(self, network: str, key: str) -> Tensor:
        """Return the tensor on the CPU, in memory of its own or, for in-memory sources, sharing the given one."""
        ...

    def read_into(self, network: str, key: str, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with the tensor's bytes from byte `start` on: C order, native byte order.

        Raises:
            CheckpointError: the bytes can't be read, or their checksum is wrong.
        """
        ...

    def read_pieces(self, pieces: Sequence[Piece]) -> None:
        """Do what `read_into` does for each piece; what lies side by side in a file comes with one system call.

        Raises:
            CheckpointError: as for `read_into`.
        """
        ...

    def read_many(
        self, tensors: Sequence[tuple[str, str]], starts: Sequence[int], sizes: Sequence[int], buffer: memoryview
    ) -> None:
        """Fill `buffer` with whole tensors, each from its own of `starts` on: all of its bytes, as many as `sizes` says.

        What follows each other, in the file and in the buffer, comes with one system call, whatever their order here.

        Raises:
            CheckpointError: as for `read_into`.
        """
        ...

    def divisible(self, network: str, key: str) -> bool:
        """Return whether a part of the tensor can be read without reading the rest."""
        ...

    def extent(self, network: str, key: str, start: int, size: int) -> Extent | None:
        """Return where `size` bytes of a tensor from byte `start` on lie in an open file, C order and native byte order.

        None where they don't lie in one file side by side as they are wanted: packed, strided, in memory.

        Raises:
            CheckpointError: they lie outside of the file, or the file has changed.
        """
        ...

    def check(self, network: str, key: str) -> None:
        """Compare the checksum of a tensor that was read in part, where it covers all of it; large ones are let be.

        Raises:
            CheckpointError: it is wrong.
        """
        ...

    def unchecked(self) -> Mapping[tuple[int, int], Record]:
        """Return by position what has a checksum that isn't compared yet, as it was read in part only."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def pieces_of(source: Source, network: str, spec: TensorSpec, size: int = 4 << 20) -> Iterator[memoryview]:
    """Yield a tensor's bytes in order, read into one buffer of `size` bytes at most; a piece is valid until the next.

    Raises:
        CheckpointError: they can't be read.
    """
    buffer = memoryview(bytearray(min(size, spec.nbytes)))
    for at in range(0, spec.nbytes, size):
        piece = buffer[: min(size, spec.nbytes - at)]
        source.read_into(network, spec.name, piece, at)
        yield piece


class SourceOver:
    """What sources have in common that show another source in another way: all reading goes through `read_into`."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.origin = source.origin

    @property
    def stamps(self) -> Mapping[str, tuple[int, ...]]:
        """Those of the other source."""
        return self._source.stamps

    def read_into(self, network: str, key: str, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with a tensor's bytes from byte `start` on."""
        raise NotImplementedError

    def read_pieces(self, pieces: Sequence[Piece]) -> None:
        """Do what `read_into` does for each piece."""
        for piece in pieces:
            self.read_into(piece.network, piece.key, piece.buffer, piece.start)

    def read_many(
        self, tensors: Sequence[tuple[str, str]], starts: Sequence[int], sizes: Sequence[int], buffer: memoryview
    ) -> None:
        """Do what `read_into` does for each tensor, into its part of the buffer."""
        for (network, key), start, size in zip(tensors, starts, sizes, strict=True):
            self.read_into(network, key, buffer[start : start + size])

    def unchecked(self) -> Mapping[tuple[int, int], Record]:
        """Return those of the other source."""
        return self._source.unchecked()

    def close(self) -> None:
        """Close the other source."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
