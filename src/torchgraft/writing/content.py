"""What goes into one file, in either format, or into the folder of a distributed checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.facts import OWN, PART, as_texts
from torchgraft.core.system.commit import whole_file
from torchgraft.writing import dcp, safetensors, torch_zip
from torchgraft.writing.items import Item

SAFETENSORS, TORCH, DCP = "safetensors", "torch zip", "dcp"
KINDS = (SAFETENSORS, TORCH, DCP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Tensors and what lies beside them.

    `items` are stored once each; `shared` maps further names to the stored one. `others` are entries of the state dict
    that are no tensors, `versions` those of its modules (None: it states none), `facts` plain data beside it. `names`
    is the order of all names, `mark` says which shard of which run this is.
    """

    items: Sequence[Item]
    names: Sequence[str]
    shared: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, object] = field(default_factory=dict)
    versions: Mapping[str, object] | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    mark: str = ""

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return sum(item.spec.nbytes for item in self.items)

    def check(self, kind: str) -> None:
        """Refuse what a file of `kind` can't hold, before anything is opened.

        Raises:
            UsageError: a name, an element type or a value that the format can't hold.
        """
        if kind not in KINDS:
            raise UsageError(f"file_format={kind!r}: use one of {', '.join(map(repr, KINDS))}")
        taken = {*self.names, *OWN, "format"} - {"format"}
        clash = next((key for key in self.facts if key in taken), None)
        if clash is not None:
            raise UsageError(f"metadata key {printable(clash)!r} is also the name of a tensor; rename it")
        if kind == DCP:
            dcp.check(self)
            return
        if kind == TORCH:
            torch_zip.check(self.items, self._state())
            return
        if self.others:
            shown = ", ".join(map(printable, list(self.others)[:4]))
            raise UsageError(f"{shown}: extra state that is no tensor; save as .pt")
        safetensors.check(self.items, self._texts())

    def write(self, path: str | os.PathLike[str], kind: str, tick: Callable[[int], None]) -> int:
        """Write the file whole, or leave what stands there; return its size. `tick` is told the bytes of each piece.

        Raises:
            UsageError: as for `check`.
            WriteError: the file could not be written; what stood at its place is intact.
        """
        with whole_file(path) as file:
            if kind == TORCH:
                return torch_zip.write(file.fileno(), self.items, self._state(), self._beside(), tick)
            return safetensors.write(file.fileno(), self.items, self._texts(), tick)

    def _texts(self) -> dict[str, str]:
        """Return the metadata of a safetensors file. `format: pt` is what transformers asks of every file it loads."""
        versions = {"versions": {"": dict(self.versions)}} if self.versions is not None else {}
        return {"format": "pt", **as_texts({**versions, **self._beside()}, frozenset(self.names)), **self.shared}

    def _beside(self) -> dict[str, object]:
        return {**self.facts, PART: self.mark} if self.mark else dict(self.facts)

    def _state(self) -> torch_zip.State:
        return torch_zip.State(self.names, self.shared, self.others, self.versions)
