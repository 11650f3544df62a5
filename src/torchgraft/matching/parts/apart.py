"""What lies apart in the modules of a side that another side may hold as one: queries, keys and values; gate and up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torchgraft.core.match import Leaf
from torchgraft.core.specs import Shape
from torchgraft.matching.names.words import canonical
from torchgraft.matching.tables.packing import GATE_UP, KV, QKV


@dataclass(frozen=True, slots=True)
class Apart:
    """Parts that lie apart in one module: what they are, their rows, and the columns that they have in common."""

    parts: tuple[str, ...]
    rows: tuple[int, ...]
    columns: int


def parts_apart(leaves: Sequence[Leaf]) -> Iterator[Apart]:
    """Yield what lies apart in the modules of a side: by name or by number for q, k, v; by shape for gate and up."""
    modules: dict[str, list[Leaf]] = defaultdict(list)
    for leaf in leaves:
        if leaf.role == "weight" and len(flat_shape(leaf.shape)) == 2:
            modules[leaf.owner.rpartition(".")[0]].append(leaf)
    alike = {
        tuple([(leaf.owner.rpartition(".")[2], leaf.shape, leaf.turned) for leaf in one]): one
        for one in modules.values()
    }
    for inside in alike.values():
        said = {canonical(leaf.owner)[-1:]: leaf for leaf in inside}
        projections = [said.get((label,)) for label in QKV]
        if None not in projections:
            shapes = [_oriented(leaf) for leaf in projections if leaf]
            if len({columns for _, columns in shapes}) == 1:
                yield Apart(QKV, tuple(rows for rows, _ in shapes), shapes[0][1])
                yield Apart(KV, tuple(rows for rows, _ in shapes[1:]), shapes[0][1])
        held = [_oriented(leaf) for leaf in inside if len(leaf.shape) == 2]
        for rows, columns in dict.fromkeys(held):
            if rows == columns and held.count((rows, columns)) >= len(QKV):
                yield Apart(QKV, (rows,) * 3, columns)
            elif rows != columns and held.count((rows, columns)) == len(GATE_UP) and (columns, rows) in held:
                yield Apart(GATE_UP, (rows, rows), columns)


def _oriented(leaf: Leaf) -> Shape:
    """Return the shape as [out, in]."""
    return leaf.shape[::-1] if leaf.turned else flat_shape(leaf.shape)


def flat_shape(shape: Shape) -> Shape:
    """Return the shape of a convolution of a single position as that of the matrix that it is."""
    return shape[:2] if set(shape[2:]) == {1} else shape
