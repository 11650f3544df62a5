"""Matches grouped by modules: from which module of the file to which one of the model a tensor goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from torchgraft.core.match import Match

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


def _around(ours: str, theirs: str) -> Iterator[ModulePair]:
    """Yield the modules around two tensors in which both have the same path, the inner ones first."""
    while ours and theirs:
        ours, _, one = ours.rpartition(".")
        theirs, _, other = theirs.rpartition(".")
        if one != other:
            break
        yield ours, theirs
