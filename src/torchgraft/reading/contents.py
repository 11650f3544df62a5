"""What a reader of one format gives back, before networks are looked for in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torchgraft.core.errors import printable
from torchgraft.reading.tensors import StoredTensor

# How names of checkpoint files end: by these they are found in folders, where nothing else says which file is meant.
ENDINGS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".gguf", ".h5", ".hdf5", ".pth.tar", ".pkl", ".msgpack",
    ".onnx",
)  # fmt: skip


def unpack_hint(names: Iterable[str]) -> str:
    """Return what to do with an archive that is none of a known format: the end of a sentence."""
    inner = next((n for n in names if n.endswith(ENDINGS)), "")
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
