"""JSON as its standard has it: no NaN, no key twice, no endless nesting."""

from __future__ import annotations

import json
from typing import Any

from torchgraft.core.errors import CorruptCheckpointError, LimitExceededError, printable

FREE_CONTAINERS = 100_000
EACH = 10  # bytes of text for each further table or list, which take ten times as much in memory


def loads(raw: bytes, where: str) -> Any:
    """Return the value of a JSON text."""
    if (count := raw.count(b"[") + raw.count(b"{")) > FREE_CONTAINERS + len(raw) // EACH:
        raise LimitExceededError(
            f"{where}: JSON of {count} tables and lists in {len(raw)} bytes, which hold next to nothing"
        )
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_Once(where), parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise CorruptCheckpointError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise CorruptCheckpointError(f"{where}: JSON nested too deeply") from error
    except ValueError as error:
        why = "a number of thousands of digits" if "digits" in str(error) else error
        raise CorruptCheckpointError(f"{where}: not JSON ({why})") from error


class _Once:
    """Makes a dictionary of pairs, each key once."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise CorruptCheckpointError(f"{self.where}: duplicate key {printable(key)}")
                seen.add(key)
        return out


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")
