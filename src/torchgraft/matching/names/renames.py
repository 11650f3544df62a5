"""Rules of `rename=` by the segments that they begin with: each name is compared with those few that could mean it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from torchgraft.matching.names.patterns import compiled, filled

if TYPE_CHECKING:
    import re


class Found(NamedTuple):
    """A rule that means a name: the pattern as the caller wrote it, what it leads to, and where it stands in the name."""

    said: str
    to: str
    match: re.Match[str]


class Renames:
    """Source patterns with what they lead to; of several that mean a name the first counts.

    A tree of their segments, in which a name finds them, however many there are.

    Raises:
        UsageError: a pattern makes no sense.
    """

    def __init__(self, rename: Mapping[str, str]) -> None:
        self._rules = [(said, to, compiled(said)) for said, to in rename.items()]
        self._children: list[dict[str | None, int]] = [{}]  # by segment; None stands for each that has a field
        self._ending: list[list[int]] = [[]]
        for number, said in enumerate(rename):
            self._ending[self._node(said)].append(number)

    def _node(self, said: str) -> int:
        """Return the node of a pattern, which is made with those on the way to it."""
        node = 0
        for segment in said.removesuffix(".").split(".") if said else ():
            key = None if "{" in segment else segment
            following = self._children[node].setdefault(key, len(self._children))
            if following == len(self._children):
                self._children.append({})
                self._ending.append([])
            node = following
        return node

    def all_of(self, name: str) -> Iterator[Found]:
        """Yield the rules that mean a name, in the order in which they were given."""
        for number in sorted(self._candidates(name)):
            said, to, pattern = self._rules[number]
            if (match := pattern.match(name)) is not None:
                yield Found(said, to, match)

    def _candidates(self, name: str) -> Iterator[int]:
        nodes = [0]
        yield from self._ending[0]
        for segment in name.split(".") if self._rules else ():
            nodes = [self._children[n][key] for n in nodes for key in (segment, None) if key in self._children[n]]
            if not nodes:
                return
            for node in nodes:
                yield from self._ending[node]

    def first_of(self, name: str) -> Found | None:
        """Return the rule that counts for a name, None where none means it."""
        return next(self.all_of(name), None)

    def name_of(self, key: str) -> str:
        """Return what a key of the file is called after the rules."""
        found = self.first_of(key)
        if found is None:
            return key
        new, rest = filled(found.to, found.match.groupdict()), key[found.match.end() :]
        return new + rest if new else rest.removeprefix(".")

    def idle(self, keys: Iterable[str]) -> set[str]:
        """Return the patterns that mean none of the keys, as they were given."""
        left = {said for said, *_ in self._rules}
        for key in keys:
            for found in self.all_of(key):
                left.discard(found.said)
            if not left:
                break
        return left
