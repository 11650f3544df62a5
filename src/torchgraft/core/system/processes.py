"""The processes that hold a model together: who they are, and a group in which they talk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from torchgraft.core.errors import UsageError
from torchgraft.core.types import ProcessGroup


def ranks_of(spread: Iterable[Any]) -> list[int]:
    """Return the ranks of the widest mesh that `spread` tensors lie on, in order; none where there are no tensors.

    Raises:
        UsageError: another tensor lies on processes that are not among them.
    """
    sets = {tuple(sorted(tensor.device_mesh.mesh.flatten().tolist())) for tensor in spread}
    widest = max(sets, key=len, default=())
    if any(not set(one) <= set(widest) for one in sets):
        said = " and ".join(str(list(one)) for one in sorted(sets)[:3])
        raise UsageError(f"parts of the model are spread over different processes ({said}); take each part by itself")
    return list(widest)


@contextmanager
def group_of(spread: Iterable[Any], ranks: list[int]) -> Iterator[ProcessGroup]:
    """Give a process group of just these ranks: that of all processes or of a mesh where there is one, else a new one.

    Collective over these ranks only. A new one is the last resort: torch calls it by the number of groups that a process is
    in, and processes that differ in that wait for each other for ever.
    """
    import torch.distributed as dist  # there already, where models are spread

    if ranks == list(range(dist.get_world_size())):
        everybody: Any = dist.group.WORLD
        yield everybody
        return
    meshes = (tensor.device_mesh for tensor in spread)
    known = next((mesh for mesh in meshes if mesh.ndim == 1 and sorted(mesh.mesh.tolist()) == ranks), None)
    if known is not None:
        yield known.get_group()
        return
    group = cast("ProcessGroup", dist.new_group(ranks, use_local_synchronization=True))
    try:
        yield group
    finally:
        dist.destroy_process_group(group)
