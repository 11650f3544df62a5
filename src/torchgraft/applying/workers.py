"""A few threads that take chunks from one queue, in the order of the file."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence

from torchgraft.applying.chunks import Chunk

MAX_THREADS = 4
_WORTH_THREADS = 4 << 20


class Workers:
    """Does `work` for each chunk, begun in the given order, several at a time."""

    def __init__(self, work: Callable[[Chunk], None]) -> None:
        self._work = work
        self._queue: deque[Chunk] = deque()
        self._failures: list[tuple[str, BaseException]] = []
        self._threads: list[threading.Thread] = []

    def start(self, chunks: Sequence[Chunk]) -> None:
        """Begin with helpers: as many as there are further cores and work for them."""
        self._queue.extend(chunks)
        if sum([part.size for chunk in chunks for part in chunk]) < _WORTH_THREADS:
            return
        for number in range(min(os.cpu_count() or 1, MAX_THREADS, len(chunks)) - 1):
            thread = threading.Thread(target=self._run, args=(_nothing,), name=f"torchgraft-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def finish(self, between: Callable[[], None] | None = None) -> None:
        """Work, too, until everything is done; `between` is called now and then, and may raise.

        Raises:
            Exception: what the first failing chunk raised, with the names of its first and last slot as a note.
        """
        between = between or _nothing
        self._run(between)
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.05)
                between()
        if self._failures:
            name, error = self._failures[0]
            error.add_note(name)
            raise error

    def stop(self) -> None:
        """Return when no helper works any more."""
        self._queue.clear()
        for thread in self._threads:
            thread.join()

    def _run(self, between: Callable[[], None]) -> None:
        while self._queue and not self._failures:
            try:
                chunk = self._queue.popleft()
            except IndexError:
                return
            try:
                self._work(chunk)
            except BaseException as error:  # noqa: BLE001  # part of the transaction: raised again by `finish`
                names = dict.fromkeys(chunk[at].transfer.step.slot.name for at in (0, -1))
                self._failures.append((" ... ".join(names), error))
                return
            between()


def _nothing() -> None:
    """Do nothing between two chunks: only the main thread handles signals."""
