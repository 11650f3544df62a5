"""Bytes of tensors to their places in a file, by a few threads, summed up on the way."""

from __future__ import annotations

import os
import threading
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple

from torchgraft.core.system.commit import put
from torchgraft.writing.items import Item, check_stated

MAX_THREADS = 4
_WORTH_THREADS = 8 << 20


class Sums(NamedTuple):
    """SHA-256 (hex) and CRC-32 of a tensor's bytes."""

    sha256: str
    crc: int


class Streamer:
    """Writes items to their offsets. Memory: one piece for each thread."""

    def __init__(self, handle: int, placed: Sequence[tuple[Item, int]], tick: Callable[[int], None]) -> None:
        self._handle = handle
        self._queue = deque(enumerate(placed))
        self._tick = tick
        self._sums: list[Sums | None] = [None] * len(placed)
        self._failures: list[BaseException] = []
        self._stopped = False
        self._bytes = sum(item.spec.nbytes for item, _ in placed)

    def run(self) -> list[Sums]:
        """Write everything and return the sums, one for each item.

        Raises:
            CheckpointError: an item can't be read, or has not the SHA-256 that its source states.
            OSError: the file can't be written. No thread writes any more when this returns or raises.
        """
        threads: list[threading.Thread] = []
        try:
            if self._bytes >= _WORTH_THREADS:
                for _ in range(min(os.cpu_count() or 1, MAX_THREADS, len(self._queue)) - 1):
                    threads.append(threading.Thread(target=self._work, name="torchgraft-writer", daemon=True))
                    threads[-1].start()
            self._work()
        except BaseException:
            self._stopped = True
            raise
        finally:
            for thread in threads:
                thread.join()
        if self._failures:
            raise self._failures[0]
        return [sums for sums in self._sums if sums is not None]

    def _work(self) -> None:
        while self._queue and not self._failures and not self._stopped:
            try:
                number, (item, at) = self._queue.popleft()
            except IndexError:
                return
            try:
                self._sums[number] = self._copy(item, at)
            except BaseException as error:  # noqa: BLE001  # raised again by `run`, whichever thread met it
                self._failures.append(error)

    def _copy(self, item: Item, at: int) -> Sums:
        digest, crc, done = sha256(), 0, 0
        for piece in item.pieces():
            if self._stopped or self._failures:
                break
            digest.update(piece)
            crc = zlib.crc32(piece, crc)
            done += put(self._handle, piece, at + done)
            self._tick(len(piece))
        else:
            check_stated(item, digest.hexdigest())
        return Sums(digest.hexdigest(), crc)
