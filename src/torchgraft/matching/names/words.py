"""Names as canonical words, so that two libraries' spellings of one thing compare as equal."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from torchgraft.core.names import words
from torchgraft.matching.tables.dialect import CONTRARY_TERMS, IN_OTHER_TERMS, KINDS, PHRASES


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
    return _canonical(_segments(name))


def _segments(name: str) -> tuple[str, ...]:
    return tuple("#" if part.isdecimal() else part for part in name.split("."))


@lru_cache(maxsize=50_000)
def _canonical(segments: tuple[str, ...]) -> tuple[str, ...]:
    return _joined(_twice_translated(segments)[-1])


def read_alike(name: str, other: str) -> tuple[str, ...]:
    """Return by which entries of the dialect two dotted names have words in common that they spell in different ways."""
    return _read_alike(_segments(name), _segments(other))


@lru_cache(maxsize=10_000)
def _read_alike(*both: tuple[str, ...]) -> tuple[str, ...]:
    ours, theirs = map(_entries, both)
    common = {*_canonical(both[0])} & {*_canonical(both[1])}
    pairs = [(ours.get(meant, meant), theirs.get(meant, meant), meant) for meant in ours | theirs]
    return tuple([_entry(*pair) for pair in pairs if pair[0] != pair[1] and common.issuperset(pair[2].split())])


def _entry(one: str, other: str, meant: str) -> str:
    spelled = " and ".join(f"'{phrase}'" for phrase in (one, other) if phrase != meant)
    return f"dialect: {spelled} {'means' if meant in (one, other) else 'mean'} '{meant}'"


def _entries(segments: tuple[str, ...]) -> dict[str, str]:
    """Return the phrases of a name that the dialect has, by what they mean."""
    steps = [step for steps in _twice_translated(segments) for step in steps]
    return {" ".join(meant): " ".join(phrase) for phrase, meant in steps if phrase in _PHRASES and phrase != meant}


# Words of a name, and what they mean.
Step = tuple[tuple[str, ...], tuple[str, ...]]


def _twice_translated(segments: tuple[str, ...]) -> tuple[list[Step], list[Step]]:
    spelled = tuple(word for part in segments for word in ((part,) if part == "#" else words(part)))
    first = _translated(spelled)
    return first, _translated(_joined(first))


def _joined(steps: Iterable[Step]) -> tuple[str, ...]:
    return tuple(word for _, meant in steps for word in meant)


@lru_cache(maxsize=10_000)
def terms(*names: str) -> frozenset[str]:
    """Return what names say that tensors hold of what they stand for: its logarithm, inverse, root or square; a factor or a summand."""
    said = [IN_OTHER_TERMS[word] for name in names for word in words(name) if word in IN_OTHER_TERMS]
    return frozenset().union(*said)


def terms_differ(ours: frozenset[str], theirs: frozenset[str]) -> bool:
    """Return whether values in such terms may be other ones.

    A deviation may be called by other words, but is no variance; nor is a factor a summand.
    """
    one, other = ours - theirs, theirs - ours
    contrary = any((a in one and b in other) or (b in one and a in other) for a, b in CONTRARY_TERMS)
    return contrary or bool((one | other).difference(*CONTRARY_TERMS))


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


@lru_cache
def are_kinds_alike(one: str, other: str) -> bool:
    """Return whether two segments have the same numbers and words, but for the word for the kind of layer: `fc2` and `linear2`.

    A word may be shortened: `conv1` and `c1`.
    """
    both = list(zip(words(one), words(other), strict=False))
    return len(words(one)) == len(words(other)) == len(both) and all(
        a == b or (a in KINDS and b in KINDS) or is_short_for(a, b) or is_short_for(b, a) for a, b in both
    )


def _translated(spelled: tuple[str, ...]) -> list[Step]:
    out: list[Step] = []
    at = 0
    while at < len(spelled):
        for size in range(min(_LONGEST, len(spelled) - at), 0, -1):
            found = _PHRASES.get(spelled[at : at + size])
            if found is not None:
                out.append((spelled[at : at + size], found))
                at += size
                break
        else:
            word = spelled[at]
            out.append(((word,), (f"@{word}" if word.isdecimal() else word,)))
            at += 1
    return out
