"""Which tensors and modules a caller means: globs over dotted names, or compiled regular expressions."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torchgraft.core.errors import UsageError, printable
from torchgraft.core.hints import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Pattern = str | re.Pattern[str]


def matcher(pattern: Pattern) -> Callable[[str], bool]:
    """Return a test for full names: `*` in a glob also stands for dots; a compiled expression must match in full."""
    if isinstance(pattern, re.Pattern):
        return lambda name: pattern.fullmatch(name) is not None
    if not set(pattern) & set("*?["):
        return lambda name: name == pattern
    return lambda name: fnmatchcase(name, pattern)


def paths(name: str) -> Iterable[str]:
    """Yield the dotted name, and the path of each module around it, the innermost first."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def chosen(patterns: Sequence[Pattern], names: Sequence[str], modules: Iterable[str], argument: str) -> set[str]:
    """Return the names that the patterns select, by themselves or through a module around them.

    Raises:
        UsageError: a pattern selects nothing.
    """
    if isinstance(patterns, (str, re.Pattern)):
        raise UsageError(f"{argument}={patterns!r}: give a list of patterns, e.g. {argument}=[{patterns!r}]")
    known = list(modules)
    out: set[str] = set()
    for pattern in patterns:
        test = matcher(pattern)
        paths_hit = {path for path in known if path and test(path)}
        hit = {name for name in names if test(name) or any(path in paths_hit for path in paths(name))}
        if not hit and not paths_hit:
            raise UsageError(_nothing(pattern, [*names, *known], argument))
        out |= hit
    return out


def _nothing(pattern: Pattern, known: Sequence[str], argument: str) -> str:
    text = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
    return f"{argument}: {printable(text)!r} is no parameter and no module of the model{did_you_mean(text, known)}"
