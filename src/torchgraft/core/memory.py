"""What a load takes beside the model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that a load takes beside the model at most, with `undo="auto"`.

    `kept` are old values, needed to put the model back; `working` is what is read and computed at one time.
    """

    kept: int = 0
    working: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.kept + self.working
