"""One load at a time for each piece of memory: what two loads fill at once would end as a mixture."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torchgraft.core.errors import UsageError
from torchgraft.core.layout import TakenMemory
from torchgraft.core.places import Place

_LOCK = threading.Lock()
_RUNNING: list[Sequence[Place]] = []


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
    taken = TakenMemory(place.tensor for place in others)
    return any(taken.meets(place.tensor) for place in some)
