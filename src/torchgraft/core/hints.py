"""What somebody may have meant by a name that isn't there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from torchgraft.core.errors import printable


def did_you_mean(said: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return the end of an error message: "; did you mean ...?", or nothing where no known name comes close.

    `cutoff` is the least likeness, 0 to 1, as difflib counts it.
    """
    return one_of(get_close_matches(said, dict.fromkeys(known), n=3, cutoff=cutoff))


def one_of(near: Iterable[str]) -> str:
    """Return the same for names that were found in another way."""
    shown = " or ".join(repr(printable(name, 80)) for name in near)
    return f"; did you mean {shown}?" if shown else ""
