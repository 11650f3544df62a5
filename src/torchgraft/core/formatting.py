"""Names, counts and shares as people read them, the same wherever a message or a report shows one.

Many names in one line are folded: in `blocks.{0-3,5}.norm.{weight,bias}` the braces multiply out to just these names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import product
from math import prod

from torchgraft.core.errors import printable
from torchgraft.core.names import template

LONGEST = 80


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return the names as few patterns, in the order of their first names; after `most` patterns, how many are left."""
    patterns = folded(names)
    shown = ", ".join(printable(text, LONGEST) for text, _ in patterns[:most])
    left = sum(count for _, count in patterns[most:])
    return f"{shown} and {left} more" if left else shown


def folded(names: Iterable[str]) -> list[tuple[str, int]]:
    """Return patterns, each with the number of names that it stands for."""
    leaves: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name in dict.fromkeys(names):
        stem, dot, leaf = name.rpartition(".")
        leaves.setdefault(template(stem) if dot else ("", ()), []).append(leaf)
    alike: dict[tuple[str, tuple[str, ...]], list[tuple[int, ...]]] = {}
    for (stem, numbers), ends in leaves.items():
        alike.setdefault((stem, tuple(ends)), []).append(numbers)
    return [one for (stem, ends), rows in alike.items() for one in _patterns(stem, ends, rows)]


def _patterns(stem: str, ends: tuple[str, ...], rows: list[tuple[int, ...]]) -> list[tuple[str, int]]:
    """Return one pattern where the numbers are all combinations of what stands in each place, else one for each row."""
    places = [sorted(set(column)) for column in zip(*rows, strict=True)]
    if prod(len(place) for place in places) == len(rows) and set(product(*places)) == set(rows):
        return [(_join(stem.split("{}"), [_runs(place) for place in places], ends), len(rows) * len(ends))]
    return [(_join(stem.split("{}"), [str(n) for n in row], ends), len(ends)) for row in rows]


def _join(texts: list[str], numbers: list[str], ends: tuple[str, ...]) -> str:
    stem = texts[0] + "".join(number + text for number, text in zip(numbers, texts[1:], strict=True))
    leaf = ends[0] if len(ends) == 1 else "{" + ",".join(ends) + "}"
    return f"{stem}.{leaf}" if stem else ", ".join(ends)


def runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the first and the last of each run of numbers that follow each other."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found


MOST_RUNS = 4  # of indices that are spelled out


def runs_words(indices: Sequence[int]) -> str:
    """Return indices as runs, in their order: `0-9, 12`; of many runs the first, and how many indices there are in all."""
    if not indices:
        return "none"
    found = runs(indices)
    words = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found[:MOST_RUNS])
    return words if len(found) <= MOST_RUNS else f"{words}, … ({len(indices)} in all)"


def _runs(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    return "{" + ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs(numbers)) + "}"


def percent(part: float) -> str:
    """Return a share, rounded down; only the whole is called 100 %, and only nothing 0 %."""
    if part >= 1:
        return "100 %"
    if part <= 0:
        return "0 %"
    if part < 0.001:
        return "<0.1 %"
    return f"{min(int(part * 1000), 999) / 10:.1f} %"


def tensors(count: int) -> str:
    """Return `1 tensor`, `12 tensors`."""
    return counted(count, "tensor")


def counted(count: int, noun: str) -> str:
    """Return `1 key`, `12 keys`."""
    return f"{grouped(count)} {noun}{'' if count == 1 else 's'}"


def grouped(count: int) -> str:
    """Return `4800`, and `48 000`: five digits and more in groups of three, as the SI brochure writes them."""
    return f"{count:,}".replace(",", " ") if count > 9999 else str(count)


def did_you_mean(said: str, known: Iterable[str], *, cutoff: float = 0.5) -> str:
    """Return the end of an error message: "; did you mean ...?", or nothing where no known name comes close.

    `cutoff` is the least likeness, 0 to 1, as difflib counts it.
    """
    return suggestion(get_close_matches(said, dict.fromkeys(known), n=3, cutoff=cutoff))


def suggestion(near: Iterable[str]) -> str:
    """Return the same for names that were found in another way."""
    shown = " or ".join(repr(printable(name, 80)) for name in near)
    return f"; did you mean {shown}?" if shown else ""
