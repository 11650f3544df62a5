"""How a plan is carried out: what load() was told beside model, checkpoint and plan."""

from __future__ import annotations

from dataclasses import dataclass, field

from torchgraft.applying.construct import Constructor
from torchgraft.applying.mapping import Placement
from torchgraft.core.choices import UndoWay, expect_one_of
from torchgraft.core.system.progress import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a plan is carried out.

    `placement` says where tensors on the meta device get their memory, `undo` how old values can come back (see `load`).
    `constructor` is how the model was made, if that is known: it initialises what stays fresh. `progress` hears bytes read and
    to be read, from any thread, one call at a time.

    Raises:
        UsageError: there is no such `undo`.
    """

    placement: Placement = field(default_factory=Placement)  # on the CPU
    undo: UndoWay = "auto"
    constructor: Constructor | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        expect_one_of(UndoWay, undo=self.undo)
