"""Names as canonical words, so that two libraries' spellings of one thing compare as equal."""

from __future__ import annotations

from functools import lru_cache

from torchgraft.core.names import words
from torchgraft.matching.dialect import PHRASES

_LONGEST = max(len(phrase) for phrase in PHRASES)


@lru_cache(maxsize=200_000)
def canonical(name: str) -> tuple[str, ...]:
    """Return the words of a dotted `name` in canonical spelling.

    Numbers stay: an all-digit segment as `#` (the number itself counts elsewhere), a digit behind a word as `@n`.
    """
    return _translate(_translate(_spell(name)))


def _spell(name: str) -> tuple[str, ...]:
    out: list[str] = []
    for segment in name.split("."):
        if segment.isdecimal():
            out.append("#")
            continue
        out.extend(words(segment))
    return tuple(out)


def _translate(spelled: tuple[str, ...]) -> tuple[str, ...]:
    out: list[str] = []
    at = 0
    while at < len(spelled):
        for size in range(min(_LONGEST, len(spelled) - at), 0, -1):
            found = PHRASES.get(spelled[at : at + size])
            if found is not None:
                out.extend(found)
                at += size
                break
        else:
            word = spelled[at]
            out.append(f"@{word}" if word.isdecimal() else word)
            at += 1
    return tuple(out)


def numbers(name: str) -> tuple[int, ...]:
    """Return the all-digit segments of `name` as numbers."""
    return tuple(int(part) for part in name.split(".") if part.isdecimal())


def block_of(name: str) -> str:
    """Return the path of the innermost numbered block that holds `name`: `layers.3` for `layers.3.attn.q.weight`.

    A trailing index inside a block (`mlp.0`) still counts as a block of its own. Without numbers: the empty path.
    """
    parts = name.split(".")
    for at in range(len(parts) - 1, -1, -1):
        if parts[at].isdecimal() or (parts[at][-1:].isdecimal() and at < len(parts) - 2):
            return ".".join(parts[: at + 1])
    return ""
