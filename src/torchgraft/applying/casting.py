"""Values of another element type than the slot's: cast block by block, so that no tensor is ever there twice.

Blocks are cast in bits that torch does not share out among threads, by several threads of our own: on a busy machine
torch's wait for each other at each.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchgraft.applying.chunks import sampled
from torchgraft.applying.fill import count_lost
from torchgraft.applying.finite import NONE, Odd, odd_values
from torchgraft.core.dtypes import DType
from torchgraft.core.errors import ApplyError
from torchgraft.core.specs import Piece
from torchgraft.core.system.checksums import crc32
from torchgraft.core.written import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from torchgraft.applying.chunks import Chunk, Part
    from torchgraft.applying.findings import Findings
    from torchgraft.applying.memory import Bytes
    from torchgraft.applying.undo import Undo
    from torchgraft.core.plan import Step
    from torchgraft.core.specs import Source
    from torchgraft.core.written import Written

BIT = 32768  # elements: the most that torch leaves to one thread (at::internal::GRAIN_SIZE)
WITH_INFINITY = (DType.F16, DType.BF16, DType.F32, DType.F64)


class _Kinds(NamedTuple):
    """The element types of the file and of the slot."""

    given: DType
    wanted: DType

    def cast(self, size: int) -> int:
        """Return how many bytes those of the file become."""
        return size // self.given.itemsize * self.wanted.itemsize


class _Block(NamedTuple):
    """Bytes of a part: `read` as they lie in the file, `cast` as they are for the slot."""

    part: Part
    read: Bytes
    cast: Bytes


class Casts:
    """Reads, casts and writes the blocks of a chunk. Memory: two blocks for each thread."""

    def __init__(self, source: Source, undo: Undo, findings: Findings, written: Written) -> None:
        self._source = source
        self._undo = undo
        self._findings = findings
        self._written = written
        self._scratch = threading.local()
        self._lock = threading.Lock()
        self._odd: defaultdict[str, Odd] = defaultdict(Odd)
        self._lost: defaultdict[str, int] = defaultdict(int)
        self._steps: dict[str, tuple[Step, DType]] = {}
        self._sums: dict[tuple[str, int], int] = {}

    def take(self, chunk: Chunk) -> None:
        """Look at every value before and after its cast; write it, unless it is to be read once more."""
        kinds, raw, out = self._done(chunk)
        blocks = list(_blocks(chunk, kinds, raw, out))
        if self._findings.looks_for_odd and odd_values(raw, kinds.given):
            self._note_odd(blocks, kinds)
        if self._findings.looks_for_loss and _may_have_lost(out, kinds):
            self._note_lost(blocks, kinds)
        for block in blocks:
            part = block.part
            self._sum_up(block, kinds)
            if part.transfer.room:
                address = part.transfer.value.data_ptr() + part.at
                self._undo.keep_bytes(part.transfer.room + part.at, address, block.cast.size)
            if not part.transfer.proves:
                self._put(block)

    def write(self, chunk: Chunk) -> None:
        """Read once more, and cast into the slot."""
        kinds, raw = self._raw(chunk)
        at = 0
        for part in chunk:
            place = part.transfer.data[part.at : part.at + kinds.cast(part.size)]
            copy(as_tensor(raw[at : at + part.size], kinds.given), as_tensor(place, kinds.wanted))
            self._compare(part, place)
            at += part.size

    def settle(self) -> None:
        """Tell the findings what was found of each slot, once all blocks were taken."""
        for name, (step, given) in self._steps.items():
            if odd := self._odd.get(name):
                self._findings.odd(step, odd)
            if lost := self._lost.get(name):
                self._findings.lost(step, lost, str(given))

    def _done(self, chunk: Chunk) -> tuple[_Kinds, Bytes, Bytes]:
        """Return the bytes of a chunk as they are in the file, side by side, and cast."""
        kinds, raw = self._raw(chunk)
        out = self._room("out", kinds.cast(raw.size))
        copy(as_tensor(raw, kinds.given), as_tensor(out, kinds.wanted))
        return kinds, raw, out

    def _raw(self, chunk: Chunk) -> tuple[_Kinds, Bytes]:
        """Return the bytes of a chunk as they are in the file, side by side."""
        first = chunk[0].transfer
        kinds = _Kinds(first.given or first.step.slot.spec.dtype, first.step.slot.spec.dtype)
        raw = self._room("raw", sum([part.size for part in chunk]))
        pieces, at = [], 0
        for part in chunk:
            pieces.append(Piece(part.segment.network, part.segment.key, part.start, raw[at : at + part.size].data))
            at += part.size
        self._source.read_pieces(pieces)
        return kinds, raw

    def _room(self, name: str, size: int) -> Bytes:
        """Return memory of this thread."""
        found: Bytes | None = getattr(self._scratch, name, None)
        if found is None or found.size < size:
            found = np.empty(size, np.uint8)
            setattr(self._scratch, name, found)
        return found[:size]

    def _note_odd(self, blocks: list[_Block], kinds: _Kinds) -> None:
        for block in blocks:
            if odd := odd_values(block.read, kinds.given):
                self._note(block, kinds, odd, 0)

    def _note_lost(self, blocks: list[_Block], kinds: _Kinds) -> None:
        for block in blocks:
            if lost := count_lost(as_tensor(block.read, kinds.given), as_tensor(block.cast, kinds.wanted)):
                self._note(block, kinds, NONE, lost)

    def _note(self, block: _Block, kinds: _Kinds, odd: Odd, lost: int) -> None:
        step = block.part.transfer.step
        with self._lock:
            self._steps[step.slot.name] = (step, kinds.given)
            self._odd[step.slot.name] += odd
            self._lost[step.slot.name] += lost

    def _sum_up(self, block: _Block, kinds: _Kinds) -> None:
        """Keep the checksum of a block that is to be written, and of what is compared again when everything is."""
        part, cast = block.part, block.cast
        name = part.transfer.step.slot.name
        self._sums[name, part.done] = crc32(cast.data, 0)
        found = sampled(kinds.cast(part.transfer.size), kinds.cast(part.done), cast.size)
        samples = [Sample(part.at + start, part.at + stop, crc32(cast[start:stop].data, 0)) for start, stop in found]
        part.transfer.samples.extend(samples)

    def _put(self, block: _Block) -> None:
        """Write a block."""
        part = block.part
        place = part.transfer.data[part.at : part.at + block.cast.size]
        place[:] = block.cast
        self._compare(part, place)

    def _compare(self, part: Part, place: Bytes) -> None:
        """Compare what lies in the slot now with what was read and cast first."""
        name = part.transfer.step.slot.name
        if crc32(place.data, 0) != self._sums[name, part.done]:
            raise ApplyError(f"{name}: what lies in the slot is not what was read and cast; has the file changed?")
        self._written.compared.add(name)


def _blocks(chunk: Chunk, kinds: _Kinds, raw: Bytes, out: Bytes) -> Iterator[_Block]:
    at = 0
    for part in chunk:
        end = at + part.size
        yield _Block(part, raw[at:end], out[kinds.cast(at) : kinds.cast(end)])
        at = end


def as_tensor(data: Bytes, dtype: DType) -> torch.Tensor:
    """Return bytes as a flat tensor that shares their memory."""
    import torch

    kind: torch.dtype = getattr(torch, dtype.label)
    return torch.from_numpy(data).view(kind)


def copy(values: torch.Tensor, out: torch.Tensor) -> None:
    """Write flat values to `out`, cast to its type, without torch's threads.

    All bits are handed over with one call: between two calls threads would wait for each other at Python's lock.
    """
    import torch

    torch._foreach_copy_(out.split(BIT), values.split(BIT))  # type: ignore[no-untyped-call]  # split has no types


def _may_have_lost(out: Bytes, kinds: _Kinds) -> bool:
    """Return whether the exact count is worth its time: floats that are finite after a cast were not lost."""
    given, wanted = kinds
    if wanted.holds(given):
        return False
    return wanted not in WITH_INFINITY or given.kind == "complex" or bool(odd_values(out, wanted))
