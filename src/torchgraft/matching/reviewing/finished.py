"""What rules of doubt look at once all is paired: the matching, seen from whole modules, and what it was made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from torchgraft.core.match import Match, Matching, Sides
from torchgraft.matching.names.naming import Naming
from torchgraft.matching.names.said import NOTHING_SAID, Said
from torchgraft.matching.tables.stated import Models

# A module of the file and one of the model.
ModulePair = tuple[str, str]


class ModulePairs:
    """The modules of either side that stand for each other, by the tensors that have the same path in both.

    `met` counts the tensors inside each such pair. `Net.a.fc1.weight` to `b.fc1.weight` is inside `Net.a.fc1` and `b.fc1`, and
    inside `Net.a` and `b`; the outermost of them is what the tensor is `moved` between.
    """

    def __init__(self, matches: Iterable[Match]) -> None:
        self.met: Counter[ModulePair] = Counter()
        self._moved: dict[str, ModulePair] = {}
        for found in matches:
            pair = found.source.owner, found.target.owner
            for pair in _around(found.source.name, found.target.name):
                self.met[pair] += 1
            self._moved[found.target.name] = pair

    def together(self, matches: Iterable[Match]) -> dict[ModulePair, list[Match]]:
        """Return the matches by the pair that they are moved between: their own modules where their last names differ."""
        groups: dict[ModulePair, list[Match]] = {}
        for found in matches:
            groups.setdefault(self._moved[found.target.name], []).append(found)
        return groups


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished matching; `sides` are all leaves, `keys` the names of the file, `said` what the caller says of places."""

    matching: Matching
    sides: Sides
    naming: Naming
    keys: Iterable[str]
    models: Models
    said: Said = NOTHING_SAID

    @cached_property
    def modules(self) -> ModulePairs:
        """The matches grouped by the modules that they go between."""
        return ModulePairs(self.matching.matches)


def _around(ours: str, theirs: str) -> Iterator[ModulePair]:
    """Yield the modules around two tensors in which both have the same path, the inner ones first."""
    while ours and theirs:
        ours, _, one = ours.rpartition(".")
        theirs, _, other = theirs.rpartition(".")
        if one != other:
            break
        yield ours, theirs
