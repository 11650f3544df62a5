"""The caller's patterns of names: `{i}` stands for a number, `{name}` for a whole segment; and what they lead to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from torchgraft.core.errors import UsageError, printable

_FIELD = re.compile(r"\{(\w*)\}")


@lru_cache(maxsize=10_000)
def compiled(pattern: str) -> re.Pattern[str]:
    """Return what a pattern of the caller means: a whole name or a run of whole segments, or, ending with a dot, a prefix.

    Raises:
        UsageError: a field has no name, or two have one.
    """
    out, at = [], 0
    for found in _FIELD.finditer(pattern):
        out.append(re.escape(pattern[at : found.start()]))
        name = found.group(1)
        if not name.isidentifier():
            raise UsageError(f"pattern {pattern!r}: a field needs a name, as in {{i}}")
        out.append(f"(?P<{name}>\\d+)" if len(name) == 1 else f"(?P<{name}>[^.]+)")
        at = found.end()
    out.append(re.escape(pattern[at:]))
    end = "" if pattern.endswith(".") or not pattern else r"(?=\.|$)"
    try:
        return re.compile("".join(out) + end)
    except re.error as error:
        raise UsageError(f"pattern {pattern!r}: {error}") from error


def filled(to: str, fields: Mapping[str, str]) -> str:
    """Return what a pattern leads to, with what the fields of its other side stand for.

    Raises:
        UsageError: it has a field that the other side lacks.
    """
    try:
        return _FIELD.sub(lambda m: fields[m.group(1)], to)
    except KeyError as error:
        raise UsageError(f"target {to!r} uses {error}, which its source pattern lacks") from error


def dotted(prefix: str) -> str:
    """Return a prefix with its dot, which may be left out."""
    return prefix if not prefix or prefix.endswith(".") else prefix + "."


def copies_of(name: str, old: str, new: str) -> Iterator[str]:
    """Yield what a name becomes where the module `old` in it is called `new`; `*` stands for a segment, the same in both."""
    old, new = (_with_fields(path.strip(".")) for path in (old, new))
    pattern = compiled(old)
    for at in (0, *(found.end() for found in re.finditer(r"\.", name))):
        if (found := pattern.match(name, at)) and found.end() < len(name):
            yield name[:at] + filled(new, found.groupdict()) + name[found.end() :]


def _with_fields(path: str) -> str:
    """Return a path with fields for its stars, which are counted."""
    first, *rest = path.split("*")
    return first + "".join(f"{{star{at}}}{part}" for at, part in enumerate(rest))


def copied_names(copies: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Return the names of what lies in modules that start as copies of others, each with that of the original.

    Raises:
        UsageError: one would start as a copy of two others, or of itself.
    """
    known = dict.fromkeys(names)
    found: dict[str, str] = {}
    for old, new in copies.items():
        pairs = [(copy, name) for name in known for copy in copies_of(name, old, new) if copy in known and copy != name]
        for copy, name in pairs:
            if found.setdefault(copy, name) != name:
                both = f"{printable(found[copy], 80)!r} and {printable(name, 80)!r}"
                raise UsageError(
                    f"copies= let {both} both be {printable(copy)!r}: one place takes one tensor; leave one of them out of the "
                    "rules"
                )
    for copy, name in found.items():
        if found.get(name) is not None:
            raise UsageError(
                f"copies= lets {printable(copy)!r} start as a copy of {printable(name)!r}, which starts as one of "
                f"{printable(found[name])!r}: name that one for both"
            )
    return found
