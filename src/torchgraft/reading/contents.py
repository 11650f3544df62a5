"""What a reader of one format gives back, before networks are looked for in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torchgraft.reading.tensors import StoredTensor


class Resolve(Protocol):
    """Makes a tensor that can be read out of a description."""

    def tensor(self, ref: Any, name: str) -> StoredTensor:
        """Return the tensor called `name`, the same one for the same `ref`."""
        ...


class AsIs:
    """For formats whose trees hold tensors that can be read already."""

    def tensor(self, ref: Any, name: str) -> StoredTensor:
        """Return `ref`."""
        del name
        found: StoredTensor = ref
        return found


@dataclass(slots=True, kw_only=True)
class Contents:
    """A format's name, the tree of containers and tensors, and what makes the tree's tensors readable.

    `foreign` are classes that the file names and only their own code could restore.
    """

    format: str
    tree: Any
    resolve: Resolve = field(default_factory=AsIs)
    foreign: tuple[str, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
