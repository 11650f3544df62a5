"""Names as a tree, and the runs of like members in its numbered lists."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

# Runs of so many members, or fewer, stay whole. One more stay of the shortest run that is longer, two more of the next
# longer one: lists of different lengths never become equally long.
WHOLE = 8
_NUMBERED = re.compile(r"((?:.*?[^0-9])?)(0|[1-9][0-9]{0,8})", re.DOTALL)
# Names of more segments are nobody's model.
DEEPEST = 100

Tree: TypeAlias = "dict[str, Tree | int]"


@dataclass(frozen=True, slots=True)
class Run:
    """Members that follow each other in a list and hold the same: their numbers as they are written, in order."""

    stem: str
    numbers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.numbers)


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


class Runs:
    """The long runs of a tree, by the node that they are in."""

    def __init__(self, tree: Tree) -> None:
        self._found: dict[int, list[Run]] = {}
        self._kinds: dict[Hashable, int] = {}
        self._look(tree)

    def of(self, node: Tree) -> list[Run]:
        """Return the runs among the children of a node."""
        return self._found.get(id(node), [])

    def lengths(self) -> set[int]:
        """Return how long runs are."""
        return {len(run) for runs in self._found.values() for run in runs}

    def _look(self, node: Tree) -> int:
        """Return a number for the node, equal where all inside is: names, their order, and what is told of them."""
        kinds = {name: (-1 - child if isinstance(child, int) else self._look(child)) for name, child in node.items()}
        if len(kinds) > WHOLE:
            found = [run for run in _runs(kinds) if len(run) > WHOLE]
            if found:
                self._found[id(node)] = found
        return self._kinds.setdefault(tuple(kinds.items()), len(self._kinds))


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
        run: list[str] = []
        last: tuple[int, int] | None = None
        for number in sorted(members):
            kind = kinds[stem + members[number]]
            if last != (number - 1, kind):
                yield Run(stem, tuple(run))
                run = []
            run.append(members[number])
            last = number, kind
        yield Run(stem, tuple(run))


def sizes_of(lengths: Iterable[int]) -> dict[int, int]:
    """Return how many members stay of runs of each length."""
    return {length: WHOLE + 1 + rank for rank, length in enumerate(sorted(lengths))}
