"""Plain facts beside the tensors, in bounded size: what a report may show and a plan may keep."""

from __future__ import annotations

from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.reading.pickles.inert import Name, Stub, brief

MAX_TEXT = 4096
MAX_NODES = 2000
_GONE = object()


def kept(value: Any, budget: int = MAX_NODES) -> Any:
    """Return `value` as plain dicts, lists and scalars, or None where it is too large or holds something else."""
    left = [budget]
    out = _plain(value, left, 0)
    return None if out is _GONE or left[0] < 0 else out


def _plain(value: Any, left: list[int], depth: int) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth > 24:
        return _GONE
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return str(value) if len(value) <= MAX_TEXT else _GONE
    if isinstance(value, (Name, DType)):
        return str(value)
    if isinstance(value, Stub):
        return _stub(value, left, depth)
    if isinstance(value, dict):
        items = {_key(k): _plain(v, left, depth + 1) for k, v in value.items()} if len(value) <= left[0] else None
        return _GONE if items is None else {k: v for k, v in items.items() if v is not _GONE}
    if isinstance(value, (list, tuple, set, frozenset)):
        if len(value) > left[0]:
            return _GONE
        return [v for v in [_plain(v, left, depth + 1) for v in value] if v is not _GONE]
    return _GONE


def _stub(value: Stub, left: list[int], depth: int) -> Any:
    if isinstance(value.state, dict) and value.state:
        return _plain(value.state, left, depth + 1)
    if value.items:
        return _plain(value.items, left, depth + 1)
    if value.values:
        return _plain(value.values, left, depth + 1)
    if value.args and value.kind.module in ("pathlib", "pathlib._local"):
        return "/".join(a if isinstance(a, str) else brief(a) for a in value.args[:100])
    return _plain(value.args[0], left, depth + 1) if len(value.args) == 1 else str(value.kind)


def _key(key: Any) -> Any:
    return key if isinstance(key, (str, int, float, bool)) else str(key)
