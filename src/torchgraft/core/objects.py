"""Objects that callers give: what they say of themselves, and what a message calls them."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Names that are spoken with a vowel first: by letters (`MLP`, `nd-array`), or as words; `uni` is spoken with a y.
_AN = re.compile(r"[aeioAEIO]|[uU]n(?!i)|nd|[AEFHILMNORSX][A-Z]")


def entry_or_attribute(given: object, name: str) -> object:
    """Return an entry of a mapping, or an attribute of another object; None where there is none.

    Also None where the object raises anything: some configurations do for what has a value per layer, or for an
    entry that refers to one that isn't there.
    """
    try:
        return given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)
    except Exception:  # noqa: BLE001  # code of others
        return None


def a_kind(given: object) -> str:
    """Return what a message calls an object, by its class: `an int`, `a Linear`; a class is `a class`."""
    return with_article("class" if isinstance(given, type) else type(given).__name__)


def with_article(name: str) -> str:
    """Return `a Linear`, `an int`, `an MLP`."""
    return f"{'an' if _AN.match(name) else 'a'} {name}"
