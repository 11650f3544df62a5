"""What speaks for feeding one unit from another: shapes, names, rules in common, neighbours. All as dense matrices."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from torchgraft.matching.dialect import EXCLUSIVE
from torchgraft.matching.likeness import block_likeness
from torchgraft.matching.units import BARE, flat_class, keeps_statistics, shape_class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scipy import sparse

    from torchgraft.core.match import Leaf
    from torchgraft.core.specs import Shape
    from torchgraft.matching.units import Unit

ROLES = ("weight", "bias", "mean", "var", BARE)


@dataclass(frozen=True, slots=True)
class Evidence:
    """Fixed evidence for all pairs (rows: sources, columns: targets).

    `fits`: every shared tensor has the same elements up to rearrangement. `names`: similarity 0 to 1. `clash`: the
    names contradict each other. `rare`: how few units share the shape, 0 to 1. `likeness`: how alike the numbered
    blocks around them are, 0 to 1. `shared`: number of words that both names hold; a number counts
    with the word before it.
    """

    fits: np.ndarray
    soft: np.ndarray
    names: np.ndarray
    clash: np.ndarray
    rare: np.ndarray
    likeness: np.ndarray
    shared: np.ndarray


def gather(sources: Sequence[Unit], targets: Sequence[Unit]) -> Evidence:
    """Return the evidence that needs no other pair to be known."""
    fits, soft = _shapes(sources, targets)
    ours, theirs = (np.array([u.weight for u in units], np.float32) for units in (sources, targets))
    class_size = (fits @ theirs)[:, None] + ours @ fits
    rare = np.where(fits, 2.0 / np.maximum(class_size, 2), 0.0).astype(np.float32)
    return Evidence(
        fits,
        soft,
        _names(sources, targets),
        _clashes(sources, targets),
        rare,
        block_likeness(sources, targets),
        _shared(sources, targets),
    )


def _shapes(sources: Sequence[Unit], targets: Sequence[Unit]) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(sources), len(targets))
    shared = np.zeros(shape, bool)
    wrong = np.zeros(shape, bool)
    ranks = np.zeros(shape, bool)
    for role in ROLES:
        cells = _role_cells(sources, targets, role)
        shared |= cells[0]
        wrong |= cells[0] & ~cells[1]
        ranks |= cells[0] & ~cells[1] & ~cells[2]
    for first, second in ((BARE, "weight"), ("weight", BARE)):
        lone = _lone_cells(sources, targets, first, second)
        shared |= lone[0]
        wrong |= lone[0] & ~lone[1]
        ranks |= lone[0] & ~lone[1] & ~lone[2]
    wrong |= shared & _other_kind(sources, targets)
    return shared & ~wrong, shared & wrong & ~ranks


def _other_kind(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return where only one of the two keeps statistics of its inputs: a batch norm is no layer norm."""
    ours, theirs = (np.array([keeps_statistics(u.leaves) for u in units], bool) for units in (sources, targets))
    other: np.ndarray = ours[:, None] != theirs
    return other


def _role_cells(sources: Sequence[Unit], targets: Sequence[Unit], role: str) -> tuple[np.ndarray, ...]:
    return _cells([u.leaves.get(role) for u in sources], [u.leaves.get(role) for u in targets])


def _lone_cells(sources: Sequence[Unit], targets: Sequence[Unit], first: str, second: str) -> tuple[np.ndarray, ...]:
    return _cells(
        [u.leaves.get(first) if len(u.leaves) == 1 else None for u in sources],
        [u.leaves.get(second) if len(u.leaves) == 1 else None for u in targets],
    )


def _cells(rows: list[Leaf | None], columns: list[Leaf | None]) -> tuple[np.ndarray, ...]:
    """Return matrices: both have the tensor; shapes have the same elements; ranks (up to ones) are near."""
    ids: dict[object, int] = {}

    def column(leaves: list[Leaf | None], of: Callable[[Shape], Shape]) -> np.ndarray:
        keys = [None if leaf is None else (of, of(leaf.shape)) for leaf in leaves]
        return np.array([-1 if key is None else ids.setdefault(key, len(ids)) for key in keys], int)

    have = np.array([leaf is not None for leaf in rows])[:, None] & np.array([leaf is not None for leaf in columns])
    same = column(rows, shape_class)[:, None] == column(columns, shape_class)
    same |= column(rows, flat_class)[:, None] == column(columns, flat_class)
    rank = [np.array([0 if leaf is None else len(leaf.shape) for leaf in leaves]) for leaves in (rows, columns)]
    near = np.abs(rank[0][:, None] - rank[1]) <= 1
    return have, same & have, near


def _names(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Cosine of word bags; rare words weigh more, and words near the end of the name more than those near its start."""
    from scipy import sparse

    counts: Counter[str] = Counter()
    for unit in (*sources, *targets):
        counts.update(dict.fromkeys(unit.words, unit.weight))
    total = sum(unit.weight for unit in (*sources, *targets))
    vocabulary = {w: i for i, w in enumerate(counts)}
    idf = {w: np.log(1.0 + total / n) - 0.6 for w, n in counts.items()}

    def bags(units: Sequence[Unit]) -> sparse.csr_matrix:
        data, rows, columns = [], [], []
        for row, unit in enumerate(units):
            for back, word in enumerate(reversed(unit.words)):
                rows.append(row)
                columns.append(vocabulary[word])
                data.append(max(idf[word], 0.05) * max(0.35, 1.0 - 0.15 * back))
        matrix = sparse.csr_matrix((data, (rows, columns)), shape=(len(units), max(len(vocabulary), 1)))
        norms = np.sqrt(matrix.multiply(matrix).sum(axis=1)).A1
        return sparse.diags(1.0 / np.maximum(norms, 1e-9)) @ matrix

    return np.asarray((bags(sources) @ bags(targets).T).todense(), np.float32)


def _shared(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    from scipy import sparse

    vocabulary: dict[str, int] = {}

    def sets(units: Sequence[Unit]) -> list[tuple[int, int]]:
        return [
            (row, vocabulary.setdefault(w, len(vocabulary))) for row, u in enumerate(units) for w in _telling(u.words)
        ]

    cells = sets(sources), sets(targets)
    width = max(len(vocabulary), 1)
    sides = []
    for found, units in zip(cells, (sources, targets), strict=True):
        at = np.array(found, int).reshape(-1, 2).T
        sides.append(sparse.csr_matrix((np.ones(at.shape[1], np.float32), at), shape=(len(units), width)))
    left, right = sides
    return np.asarray((left @ right.T).todense(), np.float32)


def _telling(words: tuple[str, ...]) -> set[str]:
    """Return the words of a name, numbers joined to the word before them, list positions left out."""
    out = {word for word in words if word[0] not in "#@"}
    return out | {before + word for before, word in pairwise(words) if word[0] == "@" and before[0] not in "#@"}


def _clashes(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    clash = np.zeros((len(sources), len(targets)), bool)
    for words in EXCLUSIVE:
        sides = [[frozenset(w for w in u.words if w in words) for u in units] for units in (sources, targets)]
        kinds = [sorted(set(side), key=sorted) for side in sides]
        for a in kinds[0]:
            for b in kinds[1]:
                if a and b and not a & b:
                    rows = np.array([s == a for s in sides[0]])
                    columns = np.array([s == b for s in sides[1]])
                    clash |= rows[:, None] & columns
    return clash
