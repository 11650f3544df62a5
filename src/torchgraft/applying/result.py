"""What applying a plan came to."""

from __future__ import annotations

from dataclasses import dataclass

from torchgraft.core.plan import Objection
from torchgraft.core.results.report import Check, Mapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A plan that was carried out.

    `initialised` are the slots that had no values and got their module's own initial ones. `undo_bytes` is the memory
    that held the old values until the end. `notes` are findings that the policy lets pass with a word. `mapped` says
    which slots are views of the file, where that was asked for.
    """

    initialised: tuple[str, ...] = ()
    bytes_read: int = 0
    bytes_written: int = 0
    undo_bytes: int = 0
    mapped: Mapped | None = None
    checks: tuple[Check, ...] = ()
    notes: tuple[Objection, ...] = ()
