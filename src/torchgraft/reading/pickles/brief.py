"""Values out of strange files as messages show them: the work is bounded, whatever they hold."""

from __future__ import annotations

from typing import Any

_KINDS = {
    "Record": "dictionary", "TensorRef": "tensor", "Unreadable": "tensor", "Array": "numpy array", "Stub": "object",
    "Name": "class", "StorageRef": "storage", "StorageType": "type of storages",
}  # fmt: skip
_WHOLE = (bool, float, type(None))


def brief(value: Any, limit: int = 60) -> str:
    """Return `value` as text of about `limit` characters, without going down into it.

    `repr` would go every way there is: of a small pickle in which each list holds the one before it twice, without end.
    """
    if isinstance(value, (str, bytes)):
        return repr(value[:limit])[:limit]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)[:limit] if value.bit_length() < 2000 else f"a number of {value.bit_length()} bits"
    if isinstance(value, _WHOLE):
        return repr(value)
    if isinstance(value, (tuple, list)):
        left, right = "()" if isinstance(value, tuple) else "[]"
        inner = ", ".join(brief(v, 20) if not isinstance(v, (tuple, list)) else "…" for v in value[:12])
        end = ", …" if len(value) > 12 else "," if len(value) == 1 and left == "(" else ""
        return f"{left}{inner}{end}{right}"[:limit]
    return f"a {_KINDS.get(type(value).__name__, type(value).__name__)}"
