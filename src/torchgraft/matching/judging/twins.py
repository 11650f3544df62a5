"""Parts of one build side by side, of which one is used and the other left over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence

from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import Unit, kind_of

# A path with one of its segments set aside, and which one.
Place = tuple[int, tuple[str, ...]]


class Twins:
    """Units at one place of two modules of one side, of which one stays free: names must say which of them is meant."""

    def __init__(self, pairs: Sequence[Pair], sources: Sequence[Unit], targets: Sequence[Unit]) -> None:
        self._units = sources, targets
        used = {pair.source for pair in pairs}, {pair.target for pair in pairs}
        self._free = _free(sources, used[0]), _free(targets, used[1])

    def are_untold(self, pair: Pair) -> bool:
        """Return whether a twin of one of a pair stays free, and the other's name has not the word that only the first has."""
        source, target = self._units[0][pair.source], self._units[1][pair.target]
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


def _free(units: Sequence[Unit], used: Container[int]) -> Mapping[Place, list[Unit]]:
    found: dict[Place, list[Unit]] = defaultdict(list)
    for n, unit in enumerate(units):
        if n not in used:
            for place in _places(unit.path):
                found[place].append(unit)
    return found


def _places(path: str) -> Iterator[Place]:
    """Yield the places of a unit with one of the names of modules around it set aside; numbers say something else."""
    parts = tuple(path.split("."))
    for at, part in enumerate(parts[:-1]):
        if not part.isdecimal():
            yield at, (*parts[:at], *parts[at + 1 :])
