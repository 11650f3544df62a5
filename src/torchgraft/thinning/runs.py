"""Names as a tree, and the runs of like members in its numbered lists."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeAlias

# Runs of so many members, or fewer, stay whole. One more stay of the shortest run that is longer, two more of the next
# longer one: lists of different lengths never become equally long.
WHOLE = 8
_NUMBERED = re.compile(r"((?:.*?[^0-9])?)(0|[1-9][0-9]{0,8})", re.DOTALL)
# Names of more segments are of no real model.
DEEPEST = 100

Tree: TypeAlias = "dict[str, Tree | int]"


@dataclass(frozen=True, slots=True)
class Run:
    """Members that follow each other in a list and hold the same: their numbers as they are written, in order.

    `start` is where it begins, counted from the first member of the list.
    """

    stem: str
    numbers: tuple[str, ...]
    start: int = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def parted(self, ends: AbstractSet[int]) -> Iterator[Run]:
        """Yield its parts between these places of the list."""
        inside = sorted(end - self.start for end in ends if self.start < end < self.start + len(self))
        for start, stop in pairwise([0, *inside, len(self)]):
            yield Run(self.stem, self.numbers[start:stop], self.start + start)


def tree_of(facts: Mapping[str, Hashable]) -> Tree | None:
    """Return the tree of dotted names, each leaf a number that stands for what is told of it.

    None where a name is the path of another one, or has more segments than any model's.
    """
    if any(name.count(".") >= DEEPEST for name in facts):
        return None
    nodes: dict[str, Tree] = {"": {}}
    ids: dict[Hashable, int] = {}
    for name, fact in facts.items():
        path, _, last = name.rpartition(".")
        node = nodes.get(path)
        if node is None:
            node = _grown(nodes, path)
        if node is None or last in node:
            return None
        node[last] = ids.setdefault(fact, len(ids))
    return nodes[""]


def _grown(nodes: dict[str, Tree], path: str) -> Tree | None:
    """Return the node of a path that none leads to yet; None where a name ends on the way."""
    above, _, last = path.rpartition(".")
    parent = nodes[above] if above in nodes else _grown(nodes, above)
    if parent is None or last in parent:
        return None
    node = nodes[path] = parent[last] = {}
    return node


class End(NamedTuple):
    """Where a run begins or ends: in lists inside of so many other ones, behind so many of their members."""

    depth: int
    members: int


class Runs:
    """The long runs of a tree, by the node that they are in."""

    def __init__(self, tree: Tree) -> None:
        self._kinds: dict[tuple[tuple[str, int], ...], int] = {}
        self._kind_of: dict[int, int] = {}
        whole = self._look(tree)
        self._inside = [[run for run in _runs(dict(inside)) if len(run) > 1] for inside in self._kinds]
        self._depths = self._depths_in(whole)
        self._long = self._inside
        self.part_at(frozenset())

    def of(self, node: Tree) -> list[Run]:
        """Return the runs among the children of a node."""
        return self._long[self._kind_of[id(node)]]

    def lengths(self) -> set[int]:
        """Return how long runs are."""
        return {len(run) for runs in self._long for run in runs}

    def ends(self) -> set[End]:
        """Return where runs begin and end, those of two members included."""
        return {
            End(depth, end)
            for depths, runs in zip(self._depths, self._inside, strict=True)
            for run in runs
            for end in (run.start, run.start + len(run))
            for depth in depths
        }

    def part_at(self, ends: AbstractSet[End]) -> None:
        """Part runs where those of the other side end: then each has its like there, or is left over whole.

        Of a list of 40 like members and one of 30, both have a run of 30, and the first one another of 10.
        """
        self._long = [
            [part for run in runs for part in run.parted({end.members for end in ends if end.depth in depths})]
            for depths, runs in zip(self._depths, self._inside, strict=True)
        ]
        self._long = [[run for run in runs if len(run) > WHOLE] for runs in self._long]

    def _look(self, node: Tree) -> int:
        """Return a number for the node, equal where all inside is: names, their order, and what is told of them."""
        kinds = [(name, -1 - child if isinstance(child, int) else self._look(child)) for name, child in node.items()]
        kind = self._kind_of[id(node)] = self._kinds.setdefault(tuple(kinds), len(self._kinds))
        return kind

    def _depths_in(self, whole: int) -> list[set[int]]:
        """Return of each kind of node in how many lists such nodes are."""
        inside = list(self._kinds)
        found: list[set[int]] = [set() for _ in inside]
        todo = [(whole, 0)]
        while todo:
            kind, depth = todo.pop()
            if kind >= 0 and depth not in found[kind]:
                found[kind].add(depth)
                members = {run.stem + number for run in self._inside[kind] for number in run.numbers}
                todo += [(child, depth + (name in members)) for name, child in inside[kind]]
        return found


def is_number(text: str) -> bool:
    """Return whether a text is a number as lists count."""
    found = _NUMBERED.fullmatch(text)
    return found is not None and not found[1]


def _runs(kinds: Mapping[str, int]) -> Iterator[Run]:
    """Yield the longest runs of members of one kind."""
    lists: dict[str, dict[int, str]] = {}
    for name in kinds:
        match = _NUMBERED.fullmatch(name)
        if match:
            lists.setdefault(match[1], {})[int(match[2])] = match[2]
    for stem, members in lists.items():
        first = min(members)
        run: list[str] = []
        last: tuple[int, int] | None = None
        for number in sorted(members):
            kind = kinds[stem + members[number]]
            if run and last != (number - 1, kind):
                yield Run(stem, tuple(run), int(run[0]) - first)
                run = []
            run.append(members[number])
            last = number, kind
        yield Run(stem, tuple(run), int(run[0]) - first)


def sizes_of(lengths: Iterable[int]) -> dict[int, int]:
    """Return how many members stay of runs of each length."""
    return {length: WHOLE + 1 + rank for rank, length in enumerate(sorted(lengths))}
