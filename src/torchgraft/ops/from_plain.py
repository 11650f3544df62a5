"""Reading an op back from plain data that may come from anywhere: every field is checked before the op is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from torchgraft.core.errors import UsageError, printable
from torchgraft.ops.base import BaseOp


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_float(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _all(kind: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, tuple) and all(kind(item) for item in value)


def _is_str(value: object) -> bool:
    return isinstance(value, str)


# The only annotations that fields of ops may have (a test holds the ops to it).
KINDS: Mapping[str, Callable[[object], bool]] = {
    "int": _is_int,
    "float": _is_float,
    "str": _is_str,
    "bool": lambda value: isinstance(value, bool),
    "int | None": lambda value: value is None or _is_int(value),
    "tuple[int, ...]": _all(_is_int),
    "tuple[float, ...]": _all(_is_float),
    "tuple[str, ...]": _all(_is_str),
}


def read_op(data: object, table: Mapping[str, type[BaseOp]]) -> BaseOp:
    """Return the op of `table` that `data` stands for.

    Raises:
        UsageError: no mapping, an unknown op, a field that is missing or too many, or a value of the wrong type.
    """
    kind = table.get(name) if isinstance(data, Mapping) and isinstance(name := data.get("op"), str) else None
    if kind is None or not isinstance(data, Mapping):
        raise UsageError(f"no op: {printable(repr(data))}")
    known: dict[str, Any] = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]  # every op is a dataclass
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items() if key != "op"}
    strange = [key for key in given if key not in known]
    absent = [key for key, f in known.items() if key not in given and f.default is MISSING]
    if strange or absent:
        what = [f"unknown field {printable(repr(k))}" for k in strange] + [f"missing field {k!r}" for k in absent]
        raise UsageError(f"op {kind.name}: {', '.join(what)}")
    for key, value in given.items():
        if not KINDS[known[key].type](value):
            raise UsageError(f"op {kind.name}: {key} should be {known[key].type}, not {printable(repr(value))}")
    return kind(**given)
