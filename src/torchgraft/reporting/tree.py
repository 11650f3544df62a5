"""The modules of a model as a tree, with how much of each is filled, and from what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torchgraft.reporting.sections import fate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchgraft.core.plan import Plan, Step

SHOWN_FATES = ("copied", "renamed", "adapted", "doubtful", "fresh")
DEEPEST = 64


@dataclass(slots=True)
class Node:
    """One module: its elements by fate, all below it included. Elements of partly filled slots are split."""

    name: str
    kind: str = ""
    elements: dict[str, int] = field(default_factory=dict)
    tensors: int = 0
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All elements at and below the module; harmless ones are left out."""
        return sum(self.elements.values())

    @property
    def filled(self) -> float:
        """Share of the elements that are filled; 1.0 where there are none."""
        return 1 - self.elements.get("fresh", 0) / self.total if self.total else 1.0


def module_tree(plan: Plan) -> Node:
    """Return the tree of the modules that hold tensors; each slot counts once, under its canonical name."""
    root = Node("")
    for step in plan.steps:
        told = fate(step)
        if told == "quiet" or not step.slot.persistent:
            continue
        for node in _path(root, step):
            _count(node, step, told)
    return root


def walk(root: Node, most_nodes: int) -> set[int]:
    """Return the ids of the nodes to show: level by level, no more than `most_nodes` and not deeper than any module is."""
    level, shown = [root], {id(root)}
    for _ in range(DEEPEST):
        level = [child for node in level for child in node.children.values()]
        if not level or len(shown) + len(level) > most_nodes:
            break
        shown.update(map(id, level))
    return shown


def _path(root: Node, step: Step) -> Iterator[Node]:
    """Yield the nodes from the root to the module that holds the slot, new ones where needed."""
    yield root
    node = root
    for part in step.slot.name.split(".")[:-1]:
        node = node.children.setdefault(part, Node(part))
        yield node
    node.kind = node.kind or step.slot.kind


def _count(node: Node, step: Step, told: str) -> None:
    node.tensors += 1
    node.elements[told] = node.elements.get(told, 0) + (step.filled if told != "fresh" else step.slot.spec.numel)
    left = step.slot.spec.numel - step.filled
    if left and told != "fresh":
        node.elements["fresh"] = node.elements.get("fresh", 0) + left
