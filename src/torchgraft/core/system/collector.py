"""Python's garbage collector, paused while many small objects are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# Fewer new objects than this are left to the collector: looking at them takes a fraction of a millisecond.
_MANY = 2_000
# After so many objects that went past it, in so many pauses (those of one large job are all in use), the collector
# looks at everything once: cycles among them are freed then.
_UNSEEN_AT_MOST = 2_000_000
_PAUSES = 16
# What Python 3.12 itself has frozen at its start, and more; who freezes on purpose freezes all there is, many times that.
_FROZEN_BY_PYTHON = 1_000
_unseen: list[int] = []


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector: a hundred thousand new objects would have it scan everything several times over.

    Where many were made, they go to the oldest generation at the end, through a freeze that is undone at once (unless
    somebody else has frozen something): else the next allocation would have the collector look at all of them. Such
    objects don't count towards its next full round, so that round is made here, after some pauses and two millions of objects.
    """
    running = gc.isenabled()
    try:
        gc.disable()
        before = gc.get_count()[0]
        yield
    finally:
        if running:
            made = gc.get_count()[0] - before
            if made > _MANY and gc.get_freeze_count() < _FROZEN_BY_PYTHON:
                _age(made)
            gc.enable()


def _age(made: int) -> None:
    gc.freeze()
    gc.unfreeze()
    _unseen.append(made)
    if len(_unseen) >= _PAUSES and sum(_unseen) > _UNSEEN_AT_MOST:
        gc.collect()
        _unseen.clear()
