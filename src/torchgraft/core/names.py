"""Names of tensors as sequences of segments: whole segments are compared, never substrings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache

_DIGITS = re.compile(r"(\d+)")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def segments(name: str) -> tuple[str, ...]:
    """Return the dotted parts of `name`."""
    return tuple(name.split("."))


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key under which layer 10 comes after layer 9."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in _DIGITS.split(name) if part)


@lru_cache(maxsize=50_000)
def words(segment: str) -> tuple[str, ...]:
    """Return the lower-case words of one segment: `layerNorm_before2` -> layer, norm, before, 2."""
    out: list[str] = []
    for piece in segment.replace("-", "_").split("_"):
        for word in _CAMEL.split(piece):
            out.extend(part.lower() for part in _DIGITS.split(word) if part)
    return tuple(out)


def template(name: str) -> tuple[str, tuple[int, ...]]:
    """Return `name` with its all-digit segments replaced by `{}`, and those numbers."""
    parts = name.split(".")
    numbers = tuple(int(p) for p in parts if p.isdecimal())
    if not numbers:
        return name, ()
    return ".".join("{}" if p.isdecimal() else p for p in parts), numbers


def covers(pattern: str, name: str) -> bool:
    """Return whether `pattern` means `name`: the name itself, a module above it, or a shell pattern."""
    stem = pattern.removesuffix("*").removesuffix(".")
    return name == pattern or name.startswith(stem + ".") or fnmatchcase(name, pattern)


def ends(name: str) -> Iterator[str]:
    """Yield `name`, and what is left of it behind each of its dots, the longest first."""
    while name:
        yield name
        name = name.partition(".")[2]


def above(name: str) -> Iterator[str]:
    """Yield the paths of the modules that a name is in, the innermost first."""
    while "." in name:
        name = name.rpartition(".")[0]
        yield name


def wrappers(names: Iterable[str]) -> Iterator[str]:
    """Yield the paths, with their dot, of the modules that all names are in, the outermost first; a list is none."""
    every = set(names)
    first, last = (pick(every, default="").split(".") for pick in (min, max))
    path = ""
    for at, (one, other) in enumerate(zip(first[:-1], last[:-1], strict=False), start=1):
        if one != other or first[at].isdecimal() or last[at].isdecimal():
            return
        path += f"{one}."
        yield path
