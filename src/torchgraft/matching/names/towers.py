"""Large parts of a network that lie side by side under names that both sides have: `student` and `teacher`, `vision` and `text`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from itertools import combinations

from torchgraft.matching.names.lists import place_of


class Towers:
    """The names of any two parts that lie side by side on both sides.

    `sources` and `targets` are the paths of modules that hold modules. Parts whose names differ in numbers alone are members of a
    list, which may be counted from zero or from one.
    """

    def __init__(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        self._paths = sources, targets
        self._known: dict[tuple[str, str], bool] = {}

    @cached_property
    def _rivals(self) -> set[frozenset[str]]:
        ours, theirs = map(_side_by_side, self._paths)
        return ours & theirs

    @cached_property
    def _names(self) -> frozenset[str]:
        return frozenset[str]().union(*self._rivals)

    def change(self, ours: str, theirs: str) -> bool:
        """Return whether what lies below the one path would go from one part into another, by the names that both sides have."""
        known = self._known.get((ours, theirs))  # what lies below one module comes one after the other
        if known is None:
            here, there = (self._names.intersection(place_of(path).split(".")) for path in (ours, theirs))
            known = any(frozenset((a, b)) in self._rivals for a in here - there for b in there - here)
            self._known[ours, theirs] = known
        return known


def _side_by_side(paths: Iterable[str]) -> set[frozenset[str]]:
    """Return the names of any two modules that lie below one, numbers set aside."""
    below: dict[str, set[str]] = defaultdict(set)
    known = {""}
    for place in set(map(place_of, set(paths))):
        path = place
        while path not in known:
            known.add(path)
            around, _, last = path.rpartition(".")
            below[around].add(last)
            path = around
    worded = (sorted(name for name in names if any(map(str.isalpha, name))) for names in below.values())
    return {frozenset(two) for names in worded for two in combinations(names, 2)}
