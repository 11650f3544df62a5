"""Every error that torchgraft raises on purpose, with the exit code of the command line.

TorchgraftError                     1   anything of ours
├── UsageError                      2   an argument that makes no sense
├── CheckpointError                 3   a file that can't be read
│   ├── CorruptCheckpointError      3   broken, truncated or inconsistent
│   │   └── MissingFileError        3   nothing stands at the path that was given
│   ├── UnsafeCheckpointError       4   would need code, or leaves its folder
│   ├── UnsupportedCheckpointError  5   sound, but nothing that we read
│   └── LimitExceededError          6   larger or deeper than any honest file
├── PlanRefusedError                7   the plan holds objections; the model is untouched
│   └── UninitialisedError          7   nothing gives some tensors of a meta model their initial values
├── WriteError                      8   an output file could not be written; the old one is intact
└── ApplyError                      9   writing into the model failed; it was rolled back
    └── ModelLostError              9   the file failed where old values were no longer kept; they are NaN now
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchgraft.core.objections import Objection

MAX_MESSAGE = 400


def printable(text: str, limit: int = 160) -> str:
    """Return `text` with control characters escaped and its middle cut out when longer than `limit`.

    Names come out of files from strangers: a key may hold terminal escapes, line breaks or 64 kB of text.
    """
    if len(text) <= limit and text.isprintable():
        return text
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    if len(text) > limit:
        keep = (limit - 1) // 2
        text = f"{text[:keep]}…{text[-keep:]}"
    return text


class TorchgraftError(Exception):
    """Root of all errors raised by torchgraft."""

    exit_code = 1


class UsageError(TorchgraftError, ValueError):
    """An argument makes no sense: the message names it, what was given and what is accepted."""

    exit_code = 2


class CheckpointError(TorchgraftError):
    """A checkpoint can't be read. The message names the file and the record or tensor, and what was expected."""

    exit_code = 3

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, MAX_MESSAGE))


class CorruptCheckpointError(CheckpointError):
    """The file is broken: truncated, inconsistent, or not what it says it is."""

    exit_code = 3


class MissingFileError(CorruptCheckpointError, FileNotFoundError):
    """Nothing stands at the path that was given. A file that a checkpoint names and lacks is a plain CorruptCheckpointError.

    It is one as well, so that whatever isn't whole, from a shard to all of it, can be caught at once.
    """


class UnsafeCheckpointError(CheckpointError):
    """Reading the file as its author meant would run code or leave its folder; torchgraft never does either."""

    exit_code = 4


class UnsupportedCheckpointError(CheckpointError):
    """The file may be sound, but it is of a kind, or holds a feature, that torchgraft doesn't read."""

    exit_code = 5


class LimitExceededError(CheckpointError):
    """The file asks for more memory, depth or work than any honest checkpoint needs."""

    exit_code = 6


class PlanRefusedError(TorchgraftError):
    """The plan holds objections that the policy refuses; nothing was changed. All objections come at once."""

    exit_code = 7

    def __init__(self, objections: Sequence[Objection], header: str = "") -> None:
        self.objections = tuple(objections)
        lines = [f"- {o.fact}" + (f"\n  {o.remedy}" if o.remedy else "") for o in self.objections]
        head = header or f"refused for {len(lines)} reason{'s' if len(lines) != 1 else ''}; the model is unchanged"
        super().__init__("\n".join([head, *lines]))
        self._head = head

    def __reduce__(self) -> tuple[type[PlanRefusedError], tuple[tuple[Objection, ...], str]]:
        """Pickle what it was made of: a worker process that can't send its error back takes the pool with it."""
        return type(self), (self.objections, self._head)


class UninitialisedError(PlanRefusedError):
    """A model on the meta device has tensors that the checkpoint doesn't fill and its own code can't initialise."""


class WriteError(TorchgraftError):
    """An output file could not be written; what stood at its place is intact."""

    exit_code = 8


class ApplyError(TorchgraftError):
    """Filling the model failed half way; every tensor was put back as it was."""

    exit_code = 9


class ModelLostError(ApplyError):
    """The file failed after it had been checked, where old values were no longer kept: what was to be filled is NaN.

    Only a load that doesn't keep old values can end so: see `undo=` of load().
    """

    exit_code = 9
