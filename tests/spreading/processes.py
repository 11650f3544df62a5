"""Runs a function in several processes that can talk to each other, and returns what each of them returned."""

from __future__ import annotations

import datetime as dt
import pickle
import traceback
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.distributed.fsdp
import torch.distributed.tensor
import torch.distributed.tensor.parallel
import torch.multiprocessing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def in_processes(count: int, work: Callable[..., Any], folder: Path, *given: Any) -> list[Any]:
    """Return `work(rank, *given)` of `count` forked processes, in order of rank; their process group is gloo's."""
    paths = [folder / f"result{rank}" for rank in range(count)]
    store = folder / "store"
    store.unlink(missing_ok=True)
    args = (count, store, paths, work, given)
    torch.multiprocessing.start_processes(_one, args, nprocs=count, start_method="fork")
    found = [pickle.loads(path.read_bytes()) for path in paths]
    failed = [f"process {rank}: {value}" for rank, (good, value) in enumerate(found) if not good]
    assert not failed, "\n".join(failed)
    return [value for _, value in found]


def _one(
    rank: int, count: int, store: Path, paths: list[Path], work: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    wait = dt.timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count, timeout=wait)
    try:
        result = (True, work(rank, *given))
    except BaseException:  # noqa: BLE001 - told by the parent
        result = (False, traceback.format_exc())
    paths[rank].write_bytes(pickle.dumps(result))
    dist.destroy_process_group()
