"""Checkpoints in memory that reach into the memory of the model that they are to fill."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.core.places import here, is_module, places
from torchgraft.reading.source import OpenedCheckpoint
from torchgraft.reading.tensors.leaves import Held

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from torchgraft.core.specs import Source
    from torchgraft.reading.tensors.leaves import Leaf


class _Range(NamedTuple):
    """The memory of one storage: a device, its first byte, and the byte after its last."""

    device: str
    start: int
    stop: int


def apart_from(source: Source, model: object) -> Source:
    """Return `source` with copies of its tensors that reach into the memory of `model`.

    What is written to one place would change what is yet to be read for another: two weights of a model exchanged, or
    views of its own parameters. Files are as they are, and so is a source that is not ours; nothing given is changed.
    """
    if not isinstance(source, OpenedCheckpoint) or not is_module(model):
        return source
    held = {id(leaf): leaf for leaf in source.leaves() if isinstance(leaf, Held)}
    if not held:
        return source
    taken = _Taken(_ranges(here(place.tensor) for place in places(model)))  # type: ignore[arg-type]  # a module, as asked
    copies: dict[int, Leaf] = {
        number: Held(leaf.tensor.clone(), leaf.number) for number, leaf in held.items() if taken.meets(leaf.tensor)
    }
    return source.with_leaves(copies) if copies else source


class _Taken:
    """The memory of a model; storages of one allocator overlap only if they are the same, those made from others may."""

    def __init__(self, ranges: Iterable[_Range]) -> None:
        found: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for device, start, stop in sorted(set(ranges)):
            known = found[device]
            if known and start < known[-1][1]:
                known[-1] = (known[-1][0], max(stop, known[-1][1]))
            else:
                known.append((start, stop))
        self._found = found

    def meets(self, tensor: torch.Tensor) -> bool:
        """Return whether the storage of `tensor` reaches into this memory."""
        for device, start, stop in _ranges([here(tensor)]):
            known = self._found.get(device, [])
            at = bisect_left(known, (stop, 0)) - 1  # the last that begins before `stop`
            if at >= 0 and known[at][1] > start:
                return True
        return False


def _ranges(tensors: Iterable[torch.Tensor]) -> Iterable[_Range]:
    """Yield where tensors lie; those without memory of their own are left out."""
    for tensor in tensors:
        if tensor.is_meta:
            continue
        try:
            storage = tensor.untyped_storage()
            start, size = storage.data_ptr(), storage.nbytes()
        except (RuntimeError, ValueError):  # sparse, lazy or made of other tensors
            continue
        if size:
            yield _Range(str(tensor.device), start, start + size)
