"""Python's garbage collector, paused while many small objects are made."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the collector: a hundred thousand new objects would have it scan everything several times over.

    What was made meanwhile goes to the oldest generation at the end, through a freeze that is undone at once (unless
    somebody else has frozen something): else the next allocation would have the collector look at all of it.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()
