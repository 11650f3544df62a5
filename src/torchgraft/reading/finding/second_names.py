"""Which names of a network are second names of one tensor, told by its memory."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torchgraft.reading.tensors import StoredTensor, TensorView

HASHES_AT_ONCE = 200_000


def second_names(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """Return name -> earlier name, for names of the very same memory.

    Identities are compared where their hashes meet: to keep a million of them would take more memory than the tensors.
    """
    if _have_storages_of_their_own(tensors):
        return {}
    hashes = array("q", (hash(tensor.identity) for tensor in tensors.values()))
    meet = _repeated(hashes)
    firsts: dict[Any, str] = {}
    shared: dict[str, str] = {}
    for (name, tensor), found in zip(tensors.items(), hashes, strict=True) if meet else ():
        identity = tensor.identity if found in meet and 0 not in tensor.shape else None
        if identity is not None:
            first = firsts.setdefault(identity, name)
            if first is not name:
                shared[name] = first
    return shared


def _have_storages_of_their_own(tensors: Mapping[str, StoredTensor]) -> bool:
    views = [tensor for tensor in tensors.values() if type(tensor) is TensorView]
    return len(views) == len(tensors) and len({id(view.source) for view in views}) == len(views)


def _repeated(hashes: array[int]) -> set[int]:
    """Return the numbers that come more than once; a part of all after the other, for the memory's sake."""
    found: set[int] = set()
    parts = 1 + len(hashes) // HASHES_AT_ONCE
    for part in range(parts):
        order = sorted([h for h in hashes if h % parts == part] if parts > 1 else hashes)
        found.update(a for a, b in pairwise(order) if a == b)
    return found
