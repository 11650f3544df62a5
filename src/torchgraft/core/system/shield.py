"""Signals wait while a model is not as it was: they arrive where we choose, never in the middle of an undo."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

HELD = ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGBREAK")


class Shield:
    """Holds back the signals that Python code handles; `deliver` and `opened` hand them on at moments of our choosing.

    A handler such as that of Ctrl-C raises wherever the main thread stands, the middle of a rollback included.
    Outside the main thread no handler ever runs, and the shield does nothing.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._held: list[int] = []
        self._pending: deque[tuple[int, FrameType | None]] = deque()
        self._open = False

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            return self
        try:
            for name in HELD:
                number = getattr(signal, name, None)
                if number is not None and callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler
                    self._held.append(number)
                    signal.signal(number, self._hold)
        except BaseException:  # the handler of a signal that isn't held yet
            self._let_go()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._let_go()

    def _let_go(self) -> None:
        """Give the handlers back, and run them for all signals that came, in this order, even where some of them raise.

        What the last of these raises is raised, in the context of what was raised before it.
        """
        try:
            self._restore()
        finally:
            self._deliver_all()

    def _deliver_all(self) -> None:
        try:
            self.deliver()
        except BaseException:
            self._deliver_all()
            raise

    def _restore(self) -> None:
        """Give all signals their handlers back, even if one of these raises meanwhile."""
        raised: BaseException | None = None
        for _ in range(4 * len(HELD)):
            if not self._held:
                break
            try:
                number = self._held[-1]
                signal.signal(number, self._handlers[number])
                self._held.pop()
            except BaseException as error:  # noqa: BLE001  # raised again below
                raised = error
        if raised is not None:
            raise raised

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if not self._open:
            self._pending.append((number, frame))
            return
        self._open = False  # first: if this one raises, what undoes things must not be met by another
        self._handlers[number](number, frame)
        self._open = True

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Let signals through while foreign code runs for long, until one of them raises."""
        self.deliver()
        try:
            self._open = True
            yield
        finally:
            self._open = False

    def deliver(self) -> None:
        """Run the real handlers of the signals that came meanwhile; that of Ctrl-C raises KeyboardInterrupt."""
        while self._pending:
            number, frame = self._pending.popleft()
            self._handlers[number](number, frame)
