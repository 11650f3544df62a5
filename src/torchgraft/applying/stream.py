"""The fast way: bytes of the file straight into the memory of the model, by a few threads."""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.applying.finite import NONE, odd_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torchgraft.applying.findings import Findings
    from torchgraft.applying.memory import Bytes
    from torchgraft.applying.undo import Undo
    from torchgraft.core.plan import Step
    from torchgraft.core.specs import Source

MAX_THREADS = 4
_WORTH_THREADS = 4 << 20
PIECE = 1 << 20


class Transfer(NamedTuple):
    """One tensor to be read: the bytes it goes to, and the room for its old values (0: it has none)."""

    step: Step
    data: Bytes
    address: int
    room: int


class Stream:
    """Reads transfers in the given order, several at a time."""

    def __init__(self, source: Source, undo: Undo, findings: Findings) -> None:
        self._source = source
        self._undo = undo
        self._findings = findings
        self._queue: deque[Transfer] = deque()
        self._failures: list[tuple[str, BaseException]] = []
        self._threads: list[threading.Thread] = []

    def start(self, transfers: Iterable[Transfer]) -> None:
        """Begin with helpers, as many as there are further cores and work for them."""
        self._queue.extend(transfers)
        if sum(t.data.size for t in self._queue) < _WORTH_THREADS:
            return
        for number in range(min(os.cpu_count() or 1, MAX_THREADS, len(self._queue)) - 1):
            thread = threading.Thread(target=self._work, args=(_nothing,), name=f"torchgraft-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def finish(self, between: Callable[[], None]) -> None:
        """Work along until everything is read; `between` is called now and then, and may raise.

        Raises:
            Exception: what the first failing transfer raised, with the name of its slot as a note.
        """
        self._work(between)
        for thread in self._threads:
            while thread.is_alive():
                thread.join(0.05)
                between()
        if self._failures:
            name, error = self._failures[0]
            error.add_note(name)
            raise error

    def stop(self) -> None:
        """Return when no helper writes any more."""
        self._queue.clear()
        for thread in self._threads:
            thread.join()

    def _work(self, between: Callable[[], None]) -> None:
        while self._queue and not self._failures:
            try:
                transfer = self._queue.popleft()
            except IndexError:
                return
            try:
                self._transfer(transfer)
            except BaseException as error:  # noqa: BLE001  # part of the transaction: raised again by `finish`
                self._failures.append((transfer.step.slot.name, error))
                return
            between()

    def _transfer(self, transfer: Transfer) -> None:
        """Read one tensor, piece by piece in order, so that a piece is kept, read and looked at while in the cache."""
        step, data, address, room = transfer
        feed, dtype = step.feeds[0], step.slot.spec.dtype
        odd = NONE
        for start in range(0, data.size, PIECE):
            piece = data[start : start + PIECE]
            if room:
                self._undo.keep_bytes(room + start, address + start, piece.size)
            self._source.read_into(feed.network, feed.key, piece.data, start)
            if self._findings.looks_for_odd:
                odd += odd_values(piece, dtype)
        if odd:
            self._findings.odd(step, odd)


def _nothing() -> None:
    """Do nothing between two transfers: only the main thread handles signals."""
