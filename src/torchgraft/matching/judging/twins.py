"""Parts of one build side by side, of which one is used and the other left over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import Unit, kind_of

# A path with one of its segments set aside, and which one.
Place = tuple[int, tuple[str, ...]]


class Twins:
    """Units at one place of two modules of one side, of which one stays free: names must say which of them is meant."""

    def __init__(self, left: Iterable[Iterable[Unit]]) -> None:
        self._free = [_by_place(units) for units in left]

    def __bool__(self) -> bool:
        """Whether any unit stays free."""
        return any(self._free)

    def are_untold(self, source: Unit, target: Unit) -> bool:
        """Return whether a twin of one of a pair stays free, and the other's name has not the word that only the first has."""
        return self._is_untold(0, source, target) or self._is_untold(1, target, source)

    def _is_untold(self, side: int, own: Unit, other: Unit) -> bool:
        if not self._free[side]:
            return False
        said: set[str] | None = None
        for at, place in _places(own.path):
            for twin in self._free[side].get((at, place), ()):
                if twin.path == own.path or kind_of(twin) != kind_of(own):
                    continue
                said = {*canonical(other.path)} if said is None else said
                if not said.issuperset(canonical(own.path.split(".")[at])):
                    return True
        return False


def _by_place(units: Iterable[Unit]) -> Mapping[Place, list[Unit]]:
    found: dict[Place, list[Unit]] = defaultdict(list)
    for unit in units:
        for place in _places(unit.path):
            found[place].append(unit)
    return found


def _places(path: str) -> Iterator[Place]:
    """Yield the places of a unit with one of the names of modules around it set aside; numbers say something else."""
    parts = tuple(path.split("."))
    for at, part in enumerate(parts[:-1]):
        if not part.isdecimal():
            yield at, (*parts[:at], *parts[at + 1 :])
