"""PyTorch's distributed checkpoints out: a folder that torch.distributed.checkpoint loads onto any number of processes.

torch's own planner and file writer make the folder, so that it is as torch makes it. The planner is asked for values one
tensor at a time, and reads them then.
"""

from __future__ import annotations

import json
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from inspect import signature
from math import ceil
from typing import TYPE_CHECKING, Any, TypeVar

from torchgraft.core.errors import TorchgraftError, UsageError, WriteError, printable
from torchgraft.core.facts import BESIDE, as_texts
from torchgraft.core.places import is_spread
from torchgraft.core.system.commit import cause_of, flush_folder, hidden_folder
from torchgraft.core.system.processes import group_of, ranks_of
from torchgraft.core.system.shield import Shield
from torchgraft.core.types import ProcessGroup, ScalarType, Tensor
from torchgraft.writing.items import Item, check_stated

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.distributed.checkpoint.planner import SavePlanner

    from torchgraft.writing.content import Content

T = TypeVar("T")


def check(content: Content) -> None:
    """Refuse names that a distributed checkpoint can't hold.

    Raises:
        UsageError: an entry has the name of the one for facts.
    """
    if BESIDE in content.names:
        raise UsageError(f"{BESIDE!r} is the entry for facts in a distributed checkpoint; rename the tensor")


def write(
    path: str | os.PathLike[str], content: Content, tick: Callable[[int], None], most: int | None = None
) -> tuple[int, tuple[str, ...]]:
    """Write the folder whole, or nothing; return its size and data files. `most`: bytes of values in a file, about.

    The format can't tie names: each of `content.shared` gets a copy of the values. Memory: one tensor for each file.

    Raises:
        UsageError: something lies at `path` that is no empty folder.
        WriteError: the folder could not be written.
        CheckpointError: an item can't be read.
    """
    with whole_folder(path) as part:
        _write(part, content, tick, most)
    return measured(path)


def measured(path: str | os.PathLike[str]) -> tuple[int, tuple[str, ...]]:
    """Return the size of all files of a distributed checkpoint, and its data files."""
    folder = os.fsdecode(path)
    files = sorted(os.listdir(folder))
    size = sum(os.path.getsize(os.path.join(folder, file)) for file in files)
    return size, tuple(os.path.join(folder, f) for f in files if f != ".metadata")


def expect_free(path: str | os.PathLike[str]) -> None:
    """Raise UsageError unless nothing, or an empty folder, lies at `path`: a folder can't be replaced at once."""
    final = os.path.realpath(path)
    if os.path.lexists(final) and not (os.path.isdir(final) and not os.listdir(final)):
        shown = printable(os.fsdecode(path))
        raise UsageError(f"{shown} exists; a distributed checkpoint is written to a new folder: give another path")


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[str]:
    """Give a folder to write to; when the block ends well it stands at `path`, else nothing has changed.

    Raises:
        UsageError: something lies at `path` that is no empty folder.
        WriteError: the folder could not be written.
    """
    expect_free(path)
    final, shown = os.path.realpath(path), printable(os.fsdecode(path))
    try:
        with hidden_folder(final, shown) as part:
            yield part
            _put_in_place(part, final, shown)
    except BaseException as error:
        cause = _cause(error)
        if isinstance(cause, TorchgraftError) or not isinstance(cause, Exception):
            raise cause from error
        said = cause_of(cause) if isinstance(cause, OSError) else cause
        raise WriteError(f"{shown} can't be written: {said}; nothing was left there") from error


def _cause(error: BaseException) -> BaseException:
    """Return what really happened: torch wraps errors of its writer, and of its threads.

    A full disk first shows as an error of the system, and then as one of the archive that can't be closed.
    """
    inner = next(iter(getattr(error, "failures", {}).values()), None)
    found = inner[0] if isinstance(inner, tuple) else error
    while found.__cause__ is not None and not isinstance(found, TorchgraftError):
        found = found.__cause__
    if isinstance(found, RuntimeError) and isinstance(found.__context__, OSError):
        found = found.__context__
    return found if isinstance(found, BaseException) else error


def _write(part: str, content: Content, tick: Callable[[int], None], most: int | None) -> None:
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    stored = {item.name: item for item in content.items}
    by_name = {**stored, **{name: stored[first] for name, first in content.shared.items()}}
    state: dict[str, Any] = {
        name: torch.empty(item.spec.shape, dtype=getattr(torch, item.spec.dtype.label), device="meta")
        for name, item in by_name.items()
    }
    state |= content.others
    facts = {**({"versions": {"": dict(content.versions)}} if content.versions else {}), **content.facts}
    if facts:
        state[BESIDE] = json.dumps(as_texts(facts))
    total = sum(item.spec.nbytes for item in by_name.values())
    files = 1 if most is None else max(ceil(total / most), 1)
    writer = FileSystemWriter(
        part,
        single_file_per_rank=True,
        sync_files=True,
        thread_count=files,
        per_thread_copy_ahead=0,  # else it might ask for values before it has written those that it has
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is no process group is as it should be
        save(state, storage_writer=writer, planner=_planner(by_name, tick), **_alone())


def _planner(by_name: Mapping[str, Item], tick: Callable[[int], None]) -> SavePlanner:
    """Return a planner that plans by specs, and gives values when the writer comes to them.

    The writer holds on to all values of a file until it is complete. As it asks for one only when it has written the one
    before, all of them lie in the same memory, one after the other.
    """
    import numpy as np
    from torch.distributed.checkpoint.default_planner import DefaultSavePlanner

    largest = max((item.spec.nbytes for item in by_name.values()), default=0)
    own = threading.local()  # each file has a thread

    class Planner(DefaultSavePlanner):
        def resolve_data(self, write_item: Any) -> Any:
            item = by_name.get(write_item.index.fqn)
            if item is None:
                return super().resolve_data(write_item)
            if not hasattr(own, "memory"):
                own.memory = np.empty(largest, np.uint8)
            value = _value(item, own.memory)
            tick(item.spec.nbytes)
            return value

    return Planner(flatten_state_dict=False)


def _alone() -> dict[str, Any]:
    """Return what has torch's writer write in this process alone; an older one, as of 2.4, does where there is no group.

    Raises:
        UsageError: there is one, and torch can't be told to leave it out.
    """
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict_saver import save

    if "no_dist" in signature(save).parameters:
        return {"no_dist": True}
    if dist.is_available() and dist.is_initialized():
        raise UsageError(
            "this version of torch writes distributed checkpoints with all processes of a group: update it"
        )
    return {}


def _value(item: Item, memory: NDArray[np.uint8]) -> Tensor:
    """Return the tensor, read into `memory`; its storage is just as large as it is."""
    import torch

    raw = memory[: item.spec.nbytes]
    view, at = raw.data, 0
    for piece in item.pieces():
        view[at : at + len(piece)] = piece
        at += len(piece)
    if item.stated:
        check_stated(item, sha256(view).hexdigest())
    dtype: ScalarType = getattr(torch, item.spec.dtype.label)
    if not item.spec.numel:
        return torch.empty(item.spec.shape, dtype=dtype, device="cpu")
    return torch.frombuffer(raw, dtype=dtype).reshape(item.spec.shape)


def write_spread(path: str | os.PathLike[str], state: Mapping[str, object], facts: Mapping[str, object]) -> int:
    """Write the state dict of a model that several processes hold; return the folder's size. Collective over those.

    Each process writes the shards that it holds, through torch's own planner and writer. Signals wait until it is done:
    one that took a process away would leave the others waiting for it.

    Raises:
        UsageError: something lies at `path` that is no empty folder.
        WriteError: a process could not write its part; nothing stands at `path` then.
    """
    final, shown = os.path.realpath(path), printable(os.fsdecode(path))
    entries = {**state, **({BESIDE: json.dumps(as_texts(facts))} if facts else {})}
    spread = [value for value in state.values() if is_spread(value)]
    ranks = ranks_of(spread)
    with Shield(), group_of(spread, ranks) as group, ExitStack() as held:
        _expect_group(group, ranks)
        _in_first(lambda: expect_free(path), group, ranks[0])
        part = _in_first(lambda: held.enter_context(hidden_folder(final, shown)), group, ranks[0])
        _save_together(part, entries, shown, group)
        _in_first(lambda: _put_in_place(part, final, shown), group, ranks[0])
    return measured(path)[0]


def _expect_group(group: ProcessGroup, ranks: list[int]) -> None:
    """Refuse processes without the first of all where torch's writer would wait for it, as before it knew of groups.

    Raises:
        UsageError: this version of torch is such a one.
    """
    from torch.distributed.checkpoint.utils import _DistWrapper

    if ranks[0] and not hasattr(_DistWrapper(group, use_dist=True, coordinator_rank=0), "global_coordinator_rank"):
        raise UsageError(
            f"the model is held by processes {ranks}, and this version of torch writes with process 0 only: update it"
        )


def _save_together(part: str, entries: dict[str, Any], shown: str, group: ProcessGroup) -> None:
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(entries, storage_writer=FileSystemWriter(part, sync_files=True), process_group=group)
    except BaseException as error:
        cause = _cause(error)
        if not isinstance(cause, Exception):
            raise
        said = cause_of(cause) if isinstance(cause, OSError) else cause
        raise WriteError(f"{shown} can't be written: {said}; nothing was left there") from error


def _put_in_place(part: str, final: str, shown: str) -> None:
    flush_folder(part, shown)  # its files are on disk already, their names not yet
    if os.path.isdir(final):
        os.rmdir(final)
    os.rename(part, final)
    flush_folder(os.path.dirname(final), shown)


def _in_first(work: Callable[[], T], group: ProcessGroup, first: int) -> T:
    """Return what `work` gives in the first process of a group, which has rank `first` among all; raise in all where it fails."""
    import torch.distributed as dist

    told: list[Any] = [None]
    if dist.get_rank() == first:
        try:
            told = [(True, work())]
        except (OSError, TorchgraftError) as error:
            told = [(False, str(error))]
    dist.broadcast_object_list(told, src=first, group=group)
    good, found = told[0]
    if not good:
        raise UsageError(found)
    made: T = found
    return made
