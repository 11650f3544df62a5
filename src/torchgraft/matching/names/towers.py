"""Large parts of a network that lie side by side under names that both sides have: `student` and `teacher`, `vision` and `text`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cached_property

from torchgraft.core.names import words
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.tables.dialect import OPPOSITES

Homes = Mapping[str, set[str]]


class Towers:
    """The names of any two parts that lie side by side on both sides.

    `sources` and `targets` are the paths of modules that hold modules. Parts whose names differ in numbers alone are members of
    a list, which may be counted from zero or from one.
    """

    def __init__(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        self._paths = sources, targets
        self._known: dict[tuple[str, str], bool] = {}

    @cached_property
    def _homes(self) -> tuple[Homes, Homes]:
        ours, theirs = map(_homes_of, self._paths)
        return ours, theirs

    def change(self, ours: str, theirs: str) -> bool:
        """Return whether what lies below the one path would go into another part by name: one that both sides have, or an opposite."""
        known = self._known.get((ours, theirs))  # what lies below one module comes one after the other
        if known is None:
            here, there = (set(place_of(path).split(".")) for path in (ours, theirs))
            known = any(self._are_rivals(a, b) for a in here - there for b in there - here)
            known = self._known[ours, theirs] = known or _are_opposite(*map(_words, (ours, theirs)))
        return known

    def _are_rivals(self, one: str, other: str) -> bool:
        """Return whether both sides have modules of these names side by side."""
        return all(one in homes and other in homes and homes[one] & homes[other] for homes in self._homes)


def _words(path: str) -> set[str]:
    return {word for part in path.split(".") for word in words(part)}


def _are_opposite(here: set[str], there: set[str]) -> bool:
    """Return whether words say that the one part does the opposite of the other, whatever else there is."""
    return any(
        (one in here - there and other in there - here) or (other in here - there and one in there - here)
        for one, other in OPPOSITES
    )


def _homes_of(paths: Iterable[str]) -> Homes:
    """Return the modules that have one of a name directly below them, for each name that isn't just a number; numbers set aside."""
    homes: dict[str, set[str]] = defaultdict(set)
    known = {""}
    for place in set(map(place_of, set(paths))):
        path = place
        while path not in known:
            known.add(path)
            around, _, last = path.rpartition(".")
            if any(map(str.isalpha, last)):
                homes[last].add(around)
            path = around
    return homes
