"""Forked processes that can talk to each other, and do one piece of work after the other."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import signal
import tempfile
import traceback
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed as dist
import torch.distributed.fsdp
import torch.distributed.tensor
import torch.distributed.tensor.parallel

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

LONGEST = 300  # seconds for a piece of work; who takes longer waits for somebody that will never come


class Processes:
    """`count` processes in one group of gloo's. They are forked once; `run` has all of them do the same work."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._workers: list[tuple[Any, Connection]] = []

    def run(self, work: Callable[..., Any], *given: Any) -> list[Any]:
        """Return `work(rank, *given)` of each process, in order of rank; all of them must come to an end."""
        found = self._done(work, given)
        failed = [f"process {rank}: {value}" for rank, (good, value) in enumerate(found) if not good]
        if failed:
            self.stop()
            raise AssertionError("\n".join(failed))
        return [value for _, value in found]

    def run_some(self, work: Callable[..., Any], *given: Any) -> list[Any]:
        """Return the same, with None for processes that didn't come to an end."""
        return [value if good else None for good, value in self._done(work, given)]

    def _done(self, work: Callable[..., Any], given: tuple[Any, ...]) -> list[tuple[bool, Any]]:
        self._start()
        for _, end in self._workers:
            end.send((work, given))
        found = []
        for process, end in self._workers:
            try:
                found.append(end.recv() if end.poll(LONGEST) else (False, "waits for the others, and will for ever"))
            except EOFError:
                process.join()
                found.append((False, f"ended with {process.exitcode}"))
        return found

    def stop(self) -> None:
        """End the processes."""
        for process, end in self._workers:
            end.close()
            process.kill()
            process.join()
        self._workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        if self._workers:
            return
        fork = multiprocessing.get_context("fork")
        store = f"{tempfile.mkdtemp()}/store"
        for rank in range(self.count):
            mine, theirs = fork.Pipe()
            process = fork.Process(target=_serve, args=(rank, self.count, store, theirs), daemon=True)
            process.start()
            theirs.close()
            self._workers.append((process, mine))


def _serve(rank: int, count: int, store: str, end: Connection) -> None:
    """Do one piece of work after the other until the other end closes."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    wait = dt.timedelta(seconds=LONGEST)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=wait)
    while True:
        try:
            work, given = end.recv()
        except EOFError:
            return
        try:
            result = (True, work(rank, *given))
        except BaseException:  # noqa: BLE001 - told by the parent
            result = (False, traceback.format_exc())
        end.send(result)
