"""One load at a time for each piece of memory: what two loads fill at once would end as a mixture."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from torchgraft.core.errors import UsageError
from torchgraft.core.layout import memory_range
from torchgraft.core.places import Place
from torchgraft.core.types import Tensor

_LOCK = threading.Lock()
_RUNNING: list[Sequence[Place]] = []
_Ranges = dict[str, list[tuple[int, int]]]  # by device: the first byte, and the byte after the last


@contextmanager
def exclusively(places: Sequence[Place]) -> Iterator[None]:
    """Keep other loads away from the tensors at `places`, and from all that lies in the same memory.

    Where memory begins and ends is asked only where another load runs, so that one alone costs nothing.

    Raises:
        UsageError: some of it is being filled, by another thread or around this very call.
    """
    with _LOCK:
        if _RUNNING and _share_memory(places, [place for others in _RUNNING for place in others]):
            raise UsageError(
                "the model, or a part of it, is being filled by another load() just now: wait until it is done"
            )
        _RUNNING.append(places)
    try:
        yield
    finally:
        with _LOCK:
            del _RUNNING[next(at for at, running in enumerate(_RUNNING) if running is places)]


def _share_memory(some: Sequence[Place], others: Sequence[Place]) -> bool:
    """Return whether a tensor of one side is one of the other, or reaches into the memory of one."""
    if not {id(place.tensor) for place in some}.isdisjoint(id(place.tensor) for place in others):
        return True
    mine, theirs = _ranges(some), _ranges(others)
    return any(_overlap(mine[device], theirs[device]) for device in mine.keys() & theirs.keys())


def _ranges(places: Sequence[Place]) -> _Ranges:
    found: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for place in places:
        for tensor in _with_memory(place.tensor):
            if (where := memory_range(tensor)) is not None:
                device, start, stop = where
                found[device].append((start, stop))
    return found


def _with_memory(tensor: Tensor) -> Iterator[Tensor]:
    """Yield the tensors that hold the values: those that a wrapper class is made of, such as the local one of a DTensor."""
    flatten = getattr(type(tensor), "__tensor_flatten__", None)
    if flatten is None:
        yield tensor
        return
    for name in flatten(tensor)[0]:
        yield from _with_memory(getattr(tensor, name))


def _overlap(some: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> bool:
    """Return whether a range of one side reaches into one of the other."""
    starts, stops = np.array(sorted(others), np.uint64).T
    furthest = np.maximum.accumulate(stops)  # of all that begin no later
    mine = np.array(some, np.uint64)
    before = np.searchsorted(starts, mine[:, 1])  # as many begin before mine ends
    reached = furthest[before[before > 0] - 1]
    return bool((reached > mine[before > 0, 0]).any())
