"""Operations in words, and where they stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchgraft.core.results.recording import Operation


def modules_of(mine: Operation, other: Operation) -> dict[str, str]:
    """Return the modules of two operations, as the fields of a cause that say where it is."""
    return {"module": mine.module, "source_module": other.module}


def words_of(op: Operation) -> str:
    """Return an operation in words: its name, its module and the module's kind."""
    return f"{op.name.rstrip('_')} in {op.module or 'the model itself'}" + (f" ({op.kind})" if op.kind else "")
