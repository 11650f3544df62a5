"""Arguments that are one of a few words: as types for annotations, and checked at run time by the same."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

from torchgraft.core.errors import UsageError

OnDoubt: TypeAlias = Literal["refuse", "skip", "take"]
Accept: TypeAlias = Literal["certain", "likely"]
UndoWay: TypeAlias = Literal["auto", "keep", "check", "none"]
Mode: TypeAlias = Literal["eval", "as is"]
What: TypeAlias = Literal["loaded", "all_but_fresh"]
Partly: TypeAlias = Literal["skip", "freeze", "hold"]
Dropout: TypeAlias = Literal["keep", "off"]
NewIndices: TypeAlias = Literal["fresh", "zero", "mean"]
QkvLayout: TypeAlias = Literal["flat", "per_head"]


def listed_words(words: tuple[str, ...]) -> str:
    """Return what to use, for a message."""
    return f"use one of {', '.join(map(repr, words))}"


def is_one_of(words: tuple[str, ...], value: object) -> bool:
    """Return whether a value of any type is one of the words."""
    return isinstance(value, str) and value in words


def expect_one_of(kind: Any, **given: object) -> None:
    """Raise UsageError where an argument is none of the words of a `Literal`."""
    words = get_args(kind)
    for name, word in given.items():
        if not is_one_of(words, word):
            raise UsageError(f"{name}={word!r:.80}: {listed_words(words)}")
