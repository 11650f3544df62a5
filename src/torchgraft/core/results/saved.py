"""What was written: the files, what went into them, and what did not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torchgraft.core.shown import Renderers, Shown

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Saved(Shown):
    """A checkpoint that was written.

    `path` opens it: the file, or the index of its shards. `files` are those that hold tensors. `tensors` and `nbytes`
    count what is stored; `shared` maps further names to the stored one. `network` is the container path that was
    converted, `left_out` those of networks that the caller chose to leave behind; `notes` are remarks worth a line.
    """

    path: str
    format: str
    tensors: int
    nbytes: int
    shared: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    origin: str = ""
    network: str = ""
    cast: int = 0
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    renderers: Renderers | None = field(default=None, repr=False, compare=False)
