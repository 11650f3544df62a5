"""Names as canonical words, so that two libraries' spellings of one thing compare as equal."""

from __future__ import annotations

from functools import lru_cache

from torchgraft.core.names import words
from torchgraft.matching.tables.dialect import PHRASES


def _respelled() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return the phrases; those with `attn` also with its other spellings, which come first in a name."""
    spellings = [phrase[0] for phrase, meant in PHRASES.items() if len(phrase) == 1 and meant == ("attn",)]
    out = {meant: meant for meant in PHRASES.values()} | PHRASES  # what is translated stays so when it is read again
    for phrase, meant in PHRASES.items():
        for spelling in spellings if len(phrase) > 1 else ():
            out.setdefault(tuple(spelling if word == "attn" else word for word in phrase), meant)
    return out


VOWELS = frozenset("aeiou")

_PHRASES = _respelled()
_LONGEST = max(map(len, _PHRASES))


def canonical(name: str) -> tuple[str, ...]:
    """Return the words of a dotted `name` in canonical spelling.

    Numbers stay: an all-digit segment as `#` (the number itself counts elsewhere), a digit behind a word as `@n`.
    """
    return _canonical(tuple("#" if part.isdecimal() else part for part in name.split(".")))


@lru_cache(maxsize=50_000)
def _canonical(segments: tuple[str, ...]) -> tuple[str, ...]:
    spelled = (word for part in segments for word in ((part,) if part == "#" else words(part)))
    return _translate(_translate(tuple(spelled)))


@lru_cache
def is_short_for(word: str, whole: str) -> bool:
    """Return whether a word is another one, or an abbreviation of it: its start (`u`, `glob`), or without vowels (`txt`, `fw`)."""
    if word == whole or not word.isalpha():
        return word == whole
    if whole.startswith(word):
        return True
    if word[0] != whole[0] or not VOWELS.isdisjoint(word[1:]):
        return False
    rest = iter(whole)
    return all(letter in rest for letter in word)


def _translate(spelled: tuple[str, ...]) -> tuple[str, ...]:
    out: list[str] = []
    at = 0
    while at < len(spelled):
        for size in range(min(_LONGEST, len(spelled) - at), 0, -1):
            found = _PHRASES.get(spelled[at : at + size])
            if found is not None:
                out.extend(found)
                at += size
                break
        else:
            word = spelled[at]
            out.append(f"@{word}" if word.isdecimal() else word)
            at += 1
    return tuple(out)
