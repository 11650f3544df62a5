"""What a reader of one format gives back, before networks are looked for in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torchgraft.core.errors import printable
from torchgraft.reading.tensors import StoredTensor

_PACKED_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".h5", ".gguf", ".npz")


def unpack_hint(names: Iterable[str]) -> str:
    """Return what to do with an archive that is none of a known format: the end of a sentence."""
    inner = next((n for n in names if n.endswith(_PACKED_WEIGHTS)), "")
    return f"; it holds {printable(inner, 80)}: unpack it first" if inner else ""


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
