"""What is known of the bytes that were to be written, so that what lies in the model can be compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from torchgraft.core.types import Tensor

PAGE = 4096
SMALL = 4 * PAGE


class Sample(NamedTuple):
    """The CRC-32 of bytes `start` to `stop` of a tensor, taken before they were written."""

    start: int
    stop: int
    checksum: int


class WrittenBatch(NamedTuple):
    """Slots that were read side by side: their names, the tensors that were written to, where each lies in memory with how
    many bytes, and the CRC-32 of each, taken before they were written.
    """

    names: Sequence[str]
    tensors: Sequence[Tensor]
    addresses: Sequence[int]
    sizes: Sequence[int]
    checksums: Sequence[int]


@dataclass(slots=True)
class Written:
    """By slot: `digests`, the CRC-32 of values that were computed, and `samples` of bytes that were read beforehand.

    `compared`: those of which every byte was compared as soon as it was written. `batches`: many small ones together.
    `mapped`: views of the file. Nothing was written, so nothing is known of their values.
    """

    digests: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    compared: set[str] = field(default_factory=set)
    batches: list[WrittenBatch] = field(default_factory=list)
    mapped: set[str] = field(default_factory=set)


@lru_cache  # a large model has few sizes, and many parts of each tensor ask
def sample_ranges(size: int) -> tuple[tuple[int, int], ...]:
    """Return the byte ranges of a tensor to compare: all of it up to 16 KiB, else its first, middle and last page.

    A page begins at a multiple of its size, so the last may be shorter.
    """
    if size <= SMALL:
        return ((0, size),) if size else ()
    middle = size // 2 // PAGE * PAGE
    last = (size - 1) // PAGE * PAGE
    return (0, PAGE), (middle, middle + PAGE), (last, size)
