"""One load at a time for each tensor: of two at once each would undo, or write over, what the other had done."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torchgraft.core.errors import UsageError
from torchgraft.core.places import Place

_LOCK = threading.Lock()
_BUSY: set[int] = set()


@contextmanager
def alone(places: Iterable[Place]) -> Iterator[None]:
    """Keep other loads away from the tensors at `places`, which live on meanwhile.

    Raises:
        UsageError: some of them are being filled, by another thread or around this very call.
    """
    mine = {id(place.tensor) for place in places}
    with _LOCK:
        if not mine.isdisjoint(_BUSY):
            raise UsageError(
                "the model, or a part of it, is being filled by another load() just now: wait until it is done"
            )
        _BUSY.update(mine)
    try:
        yield
    finally:
        with _LOCK:
            _BUSY.difference_update(mine)
