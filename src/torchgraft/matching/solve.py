"""From evidence to pairs: align in order, let neighbours and shared rules vote, assign, and repeat to a fixed point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from torchgraft.matching.align import align
from torchgraft.matching.evidence import Evidence, gather
from torchgraft.matching.votes import block_votes, tail_votes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchgraft.matching.units import Unit

ROUNDS = 4
# Weights of the evidence in one score. A name can't outvote a shape; neighbours and rules outvote a single name.
NAME, CLASH, RARE, PINNED, BLOCK, TAIL, ORDER, SAME_NUMBER = 1.5, 1.2, 0.6, 1.0, 1.0, 1.0, 0.5, 0.2


@dataclass(frozen=True, slots=True)
class Pair:
    """Rows and columns that belong together, with the total score, the lead over the next best, and its parts."""

    source: int
    target: int
    score: float
    lead: float
    name: float
    block: float
    tail: float
    in_order: bool
    pinned: bool
    rare: float
    rival: int | None


def solve(
    sources: Sequence[Unit], targets: Sequence[Unit], pinned: Mapping[int, int], named: Mapping[int, int]
) -> list[Pair]:
    """Return the pairs of the best reading.

    `named` maps sources to targets of the same name under the naming rule, `pinned` those among them that names may
    decide.
    """
    if not sources or not targets:
        return []
    evidence = gather(sources, targets)
    fixed = _fixed(evidence, sources, targets, pinned)
    votes = np.zeros_like(fixed)
    pairs: list[tuple[int, int]] = []
    path: set[tuple[int, int]] = set()
    parts = (votes, votes)
    for _ in range(ROUNDS):
        scores = fixed + votes
        path = set(align(scores))
        total = scores + _marks(path, scores.shape)
        before, pairs = pairs, _assign(total)
        parts = block_votes(pairs, sources, targets), tail_votes(pairs, sources, targets)
        votes = BLOCK * parts[0] + TAIL * parts[1]
        if pairs == before:
            break
    total = fixed + votes + _marks(path, fixed.shape)
    total[evidence.fits == 0] -= 0.5
    return [_judged(i, j, total, evidence, parts, path, named) for i, j in _assign(total)]


def _fixed(evidence: Evidence, sources: Sequence[Unit], targets: Sequence[Unit], pinned: Mapping[int, int]) -> np.ndarray:
    base = np.where(evidence.fits, 1.0, 0.0).astype(np.float32)
    score = base + NAME * evidence.names + RARE * evidence.rare - CLASH * evidence.clash
    score += SAME_NUMBER * _same_numbers(sources, targets)
    for i, j in pinned.items():
        score[i, j] += PINNED
    soft = evidence.soft & ((evidence.names > 0.8) | (_marks(set(pinned.items()), score.shape) > 0))
    score[soft] -= 0.6
    score[~(evidence.fits | soft)] = -9.0
    return score


def _same_numbers(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    ids: dict[tuple[int, ...], int] = {}
    rows, columns = (
        np.array([ids.setdefault(u.numbers, len(ids)) for u in units]) for units in (sources, targets)
    )
    return (rows[:, None] == columns).astype(np.float32)


def _marks(pairs: set[tuple[int, int]], shape: tuple[int, int]) -> np.ndarray:
    marks = np.zeros(shape, np.float32)
    if pairs:
        rows, columns = np.array(sorted(pairs)).T
        marks[rows, columns] = ORDER
    return marks


def _assign(scores: np.ndarray) -> list[tuple[int, int]]:
    rows, columns = linear_sum_assignment(np.maximum(scores, 0.0), maximize=True)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if scores[i, j] > 0.4]


def _judged(
    i: int, j: int, total: np.ndarray, evidence: Evidence, parts: tuple[np.ndarray, np.ndarray],
    path: set[tuple[int, int]], named: Mapping[int, int],
) -> Pair:  # fmt: skip
    column, row = total[:, j].copy(), total[i].copy()
    column[i] = row[j] = -9.0
    rival = int(column.argmax())
    lead = total[i, j] - max(column.max(initial=0.0), row.max(initial=0.0))
    return Pair(
        source=i, target=j, score=float(total[i, j]), lead=float(lead), name=float(evidence.names[i, j]),
        block=float(parts[0][i, j]), tail=float(parts[1][i, j]), in_order=(i, j) in path,
        pinned=named.get(i) == j, rare=float(evidence.rare[i, j]), rival=rival if column[rival] > 0.4 else None,
    )  # fmt: skip
