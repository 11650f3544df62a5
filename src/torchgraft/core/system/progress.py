"""How far a long reading or writing is: bytes of several threads, added up for one listener."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from torchgraft.core.errors import UsageError
from torchgraft.core.objects import a_kind

Progress = Callable[[int, int], None]


class Ticks:
    """Adds up bytes, and tells a listener of bytes done and in all, one call at a time. Nobody may be listening.

    Raises:
        UsageError: the listener can't be called.
    """

    __slots__ = ("_done", "_lock", "_tell", "_total")

    def __init__(self, tell: Progress | None, total: int) -> None:
        if tell is not None and not callable(tell):
            raise UsageError(f"progress is {a_kind(tell)}: give a function of two numbers, bytes done and bytes in all")
        self._tell = tell
        self._total = total
        self._done = 0
        self._lock = Lock()

    def tick(self, count: int) -> None:
        """Add `count` bytes; whatever the listener raises comes out here."""
        if self._tell is None:
            return
        with self._lock:
            self._done += count
            self._tell(self._done, self._total)
