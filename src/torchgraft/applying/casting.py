"""Values of another element type than the slot's: cast block by block, so that no tensor is ever there twice.

Blocks are cast in bits that torch does not share out among threads, by several threads of our own: on a busy machine
torch's wait for each other at each.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.applying.chunks import Chunk, Part, sampled
from torchgraft.applying.fill import count_lost, is_all_zero, overflow_threshold
from torchgraft.applying.findings import Findings
from torchgraft.applying.finite import COMPARABLE, NONE, Nonfinite, any_at_least, count_nonfinite
from torchgraft.applying.memory import Bytes, Scratch
from torchgraft.applying.undo import Undo
from torchgraft.core.dtypes import DType
from torchgraft.core.errors import ApplyError
from torchgraft.core.plan import Step
from torchgraft.core.specs import Piece, Source
from torchgraft.core.system.checksums import crc32
from torchgraft.core.values import checksum
from torchgraft.core.written import Sample

if TYPE_CHECKING:
    import torch


BIT = 32768  # elements: the most that torch leaves to one thread (at::internal::GRAIN_SIZE)
# Elements: no fewer than torch casts at once. What is left over at the end of a run may get other bits for NaN.
VECTOR = 64


class _Kinds(NamedTuple):
    """The element types of the file and of the slot."""

    given: DType
    wanted: DType

    @property
    def may_vanish(self) -> bool:
        """Whether values that are not zero may become zero."""
        given, wanted = self
        return given.is_float and wanted.is_float and wanted.lowest > given.lowest

    def cast(self, size: int) -> int:
        """Return how many bytes those of the file become."""
        return size // self.given.itemsize * self.wanted.itemsize


class Casts:
    """Reads, casts and writes the blocks of a chunk. Memory: one block for each thread."""

    def __init__(self, source: Source, undo: Undo, findings: Findings) -> None:
        self._source = source
        self._undo = undo
        self._findings = findings
        self._scratch = Scratch()
        self._lock = threading.Lock()
        self._nonfinite: defaultdict[str, Nonfinite] = defaultdict(Nonfinite)
        self._lost: defaultdict[str, int] = defaultdict(int)
        self._left: set[str] = set()  # slots of which something other than zero was seen after its cast
        self._gone: dict[str, tuple[Step, DType]] = {}  # slots of which something was seen that became zero
        self._steps: dict[str, tuple[Step, DType]] = {}
        self._sums: dict[tuple[str, int], int] = {}

    def take(self, chunk: Chunk) -> None:
        """Look at every value, before its cast where that tells enough; write it, unless it is to be read once more."""
        kinds, raw = self._raw(chunk)
        parts = list(_parts(chunk, raw))
        nonfinite = self._findings.checks_finite and bool(count_nonfinite(raw, kinds.given))
        lost = self._findings.checks_loss and _may_lose(raw, kinds)
        gone = self._findings.checks_vanished and kinds.may_vanish
        for part, read in parts:
            if gone:
                self._look_for_zeros(part.transfer.step, read, kinds)
            if nonfinite or lost:
                self._count(part.transfer.step, read, kinds)
            part.transfer.samples.extend(_samples(part, read, kinds))
            if part.transfer.read_twice:
                self._sums[part.transfer.name, part.done] = crc32(read.data, 0)
            if part.transfer.undo_address:
                address = part.transfer.value.data_ptr() + part.at
                self._undo.keep_bytes(part.transfer.undo_address + part.at, address, kinds.cast(part.size))
        _put([(part, read) for part, read in parts if not part.transfer.read_twice], kinds)

    def write(self, chunk: Chunk) -> None:
        """Read once more, and cast into the slot.

        Raises:
            ApplyError: it is not what was looked at.
        """
        kinds, raw = self._raw(chunk)
        parts = list(_parts(chunk, raw))
        for part, read in parts:
            if crc32(read.data, 0) != self._sums[part.transfer.name, part.done]:
                raise ApplyError(f"{part.transfer.name}: the file holds other values than a moment ago: it has changed")
        _put(parts, kinds)

    def report(self) -> None:
        """Tell the findings what was found of each slot, once all blocks were taken."""
        for name, (step, given) in self._steps.items():
            if nonfinite := self._nonfinite.get(name):
                self._findings.nonfinite(step, nonfinite)
            if lost := self._lost.get(name):
                self._findings.lost(step, lost, str(given))
        for name in self._gone.keys() - self._left:
            step, given = self._gone[name]
            self._findings.vanished(step, str(given))

    def _raw(self, chunk: Chunk) -> tuple[_Kinds, Bytes]:
        """Return the bytes of a chunk as they are in the file, side by side."""
        first = chunk[0].transfer
        kinds = _Kinds(first.given or first.step.slot.spec.dtype, first.step.slot.spec.dtype)
        raw = self._scratch.take(sum([part.size for part in chunk]))
        pieces, at = [], 0
        for part in chunk:
            pieces.append(Piece(part.segment.network, part.segment.key, part.start, raw[at : at + part.size].data))
            at += part.size
        self._source.read_pieces(pieces)
        return kinds, raw

    def _look_for_zeros(self, step: Step, read: Bytes, kinds: _Kinds) -> None:
        """Note whether a cast left anything but zeros in a slot, and whether it made some; mostly the beginning tells."""
        name = step.slot.name
        if name in self._left:
            return
        head = read[: VECTOR * kinds.given.itemsize]
        if not is_all_zero(_cast(head, kinds)) or not is_all_zero(_cast(read, kinds)):
            self._left.add(name)
        elif not is_all_zero(as_tensor(read, kinds.given)):
            self._gone[name] = (step, kinds.given)

    def _count(self, step: Step, read: Bytes, kinds: _Kinds) -> None:
        """Count NaN, infinities, and values that are lost in the cast."""
        nonfinite = count_nonfinite(read, kinds.given) if self._findings.checks_finite else NONE
        lost = count_lost(as_tensor(read, kinds.given), _cast(read, kinds)) if self._findings.checks_loss else 0
        with self._lock:
            self._steps[step.slot.name] = (step, kinds.given)
            self._nonfinite[step.slot.name] += nonfinite
            self._lost[step.slot.name] += lost


def _parts(chunk: Chunk, raw: Bytes) -> Iterator[tuple[Part, Bytes]]:
    """Yield the parts of a chunk with their bytes, as they lie in the file."""
    at = 0
    for part in chunk:
        yield part, raw[at : at + part.size]
        at += part.size


def _put(parts: Sequence[tuple[Part, Bytes]], kinds: _Kinds) -> None:
    """Write parts, cast, into their slots."""
    places = [part.transfer.data[part.at : part.at + kinds.cast(part.size)] for part, _ in parts]
    copy([as_tensor(read, kinds.given) for _, read in parts], [as_tensor(place, kinds.wanted) for place in places])


def _samples(part: Part, read: Bytes, kinds: _Kinds) -> list[Sample]:
    """Return checksums of what is compared when everything is written: of these stretches alone, cast for that."""
    given, wanted = (dtype.itemsize for dtype in kinds)
    samples = []
    for start, stop in sampled(kinds.cast(part.transfer.size), kinds.cast(part.done), kinds.cast(part.size)):
        first, end = start // wanted, stop // wanted
        low, high = first // VECTOR * VECTOR, -(-end // VECTOR) * VECTOR
        cast = _cast(read[low * given : high * given], kinds)[first - low : end - low]
        samples.append(Sample(part.at + start, part.at + stop, checksum(cast)))
    return samples


def _cast(read: Bytes, kinds: _Kinds) -> torch.Tensor:
    """Return values cast to the slot's type."""
    import torch

    values = as_tensor(read, kinds.given)
    out = torch.empty(values.shape, dtype=getattr(torch, kinds.wanted.label), device="cpu")
    copy([values], [out])
    return out


def as_tensor(data: Bytes, dtype: DType) -> torch.Tensor:
    """Return bytes as a flat tensor that shares their memory."""
    import torch

    kind: torch.dtype = getattr(torch, dtype.label)
    return torch.from_numpy(data).view(kind)


def copy(values: Sequence[torch.Tensor], places: Sequence[torch.Tensor]) -> None:
    """Write flat values to their places, cast to their types, without torch's threads.

    All bits are handed over with one call: between two calls threads would wait for each other at Python's lock.
    """
    import torch

    pairs = zip(values, places, strict=True)
    bits = [bit for value, place in pairs for bit in zip(place.split(BIT), value.split(BIT), strict=True)]
    if bits:
        torch._foreach_copy_([place for place, _ in bits], [value for _, value in bits])


def _may_lose(read: Bytes, kinds: _Kinds) -> bool:
    """Return whether the exact count of values that a cast makes infinite, or changes, is worth its time."""
    import torch

    given, wanted = kinds
    if wanted.holds(given):
        return False
    if given not in COMPARABLE or not wanted.is_float or not wanted.mantissa:  # powers of two
        return True
    return any_at_least(read, given, overflow_threshold(getattr(torch, wanted.label)))
