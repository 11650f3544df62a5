"""From evidence to pairs: align in order, let neighbours and shared rules vote, assign, and repeat to a fixed point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from torchgraft.matching.evidence.lessons import taught
from torchgraft.matching.evidence.order import is_orderly, sequences_of
from torchgraft.matching.evidence.scores import FITS, Evidence, gather
from torchgraft.matching.evidence.votes import block_votes, tail_votes
from torchgraft.matching.judging.judge import Context, Pair, judged
from torchgraft.matching.names.words import counted, stem
from torchgraft.matching.parts.units import Unit
from torchgraft.matching.solving.align import align
from torchgraft.matching.solving.assign import assign
from torchgraft.matching.solving.behind import behind_layers
from torchgraft.matching.solving.branches import by_words
from torchgraft.matching.solving.shifts import Shifts, find_shifts
from torchgraft.matching.solving.siblings import kept_whole
from torchgraft.matching.solving.strays import without_strays
from torchgraft.matching.solving.turned import turned
from torchgraft.matching.solving.uncross import uncrossed

ROUNDS = 4
# What remains of the weight of order in a file that is sorted by name.
UNORDERED = 0.2
# Weights of the evidence in one score. A name can't outvote a shape; neighbours and rules outvote a single name.
NAME, CLASH, RARE, PINNED, LIKENESS, BLOCK, TAIL, ORDER, SAME_NUMBER, UNEVEN = (
    1.5,
    1.2,
    0.6,
    1.0,
    1.5,
    1.0,
    1.0,
    0.5,
    0.8,
    0.4,
)


def solve(
    sources: Sequence[Unit],
    targets: Sequence[Unit],
    pinned: Mapping[int, int],
    named: Mapping[int, int],
    *,
    unordered: bool = False,
) -> list[Pair]:
    """Return the pairs of the best reading.

    `named` maps sources to targets of the same name under the naming rule, `pinned` those among them that names may
    decide. In an `unordered` file (sorted by name) order counts for little.
    """
    if not sources or not targets:
        return []
    evidence = gather(sources, targets)
    shifts = find_shifts(named, pinned, sources, targets, evidence.fits)
    fixed = _fixed(evidence, sources, targets, pinned, shifts)
    votes = np.zeros_like(fixed)
    pairs: list[tuple[int, int]] = []
    path: set[tuple[int, int]] = set()
    parts = (votes, votes)
    order = UNORDERED if unordered else 1.0
    for _ in range(ROUNDS):
        scores = fixed + votes
        path = set(align(scores))
        total = scores + order * _marks(path, scores.shape)
        before, pairs = (
            pairs,
            taught(uncrossed(_assign(total), fixed, sources, targets, order), path, fixed, sources, targets),
        )
        parts = block_votes(pairs, sources, targets), tail_votes(pairs, sources, targets)
        votes = BLOCK * parts[0] + TAIL * parts[1]
        if pairs == before:
            break
    total = fixed + votes + order * _marks(path, fixed.shape)
    total[evidence.fits == 0] -= 0.5
    sequences = sequences_of(sources, targets)
    orderly = is_orderly(path, sources, targets)
    final = taught(uncrossed(_assign(total), fixed, sources, targets, order), path, fixed, sources, targets)
    final = by_words(final, fixed, evidence, (sources, targets))
    final = turned(kept_whole(final, fixed, evidence.rare, sources, targets), fixed, sources, targets)
    final = without_strays(final, evidence.names, sources, targets)
    partners = shifts.partners if unordered else {*shifts.partners, *behind_layers(final, sources, targets)}
    context = Context(path, named, _regions(sources, targets), sequences, orderly, shifts.contested, partners)
    return judged(final, total, evidence, parts, context)


def _regions(sources: Sequence[Unit], targets: Sequence[Unit]) -> tuple[list[str], list[str]]:
    return [_region(u.path) for u in sources], [_region(u.path) for u in targets]


def _region(path: str) -> str:
    """Return the part of a network that a module lies in: its first segment; members of one list there are together."""
    first = path.partition(".")[0]
    head = stem(first)
    return first if head is None else head


def _fixed(
    evidence: Evidence, sources: Sequence[Unit], targets: Sequence[Unit], pinned: Mapping[int, int], shifts: Shifts
) -> np.ndarray:
    base = np.where(evidence.fits, 1.0, 0.0).astype(np.float32)
    score = base + NAME * evidence.names + RARE * evidence.rare - CLASH * evidence.clash
    score -= UNEVEN * evidence.uneven
    score += LIKENESS * evidence.likeness
    score += SAME_NUMBER * _same_numbers(sources, targets, shifts)
    for i, j in pinned.items():
        score[i, j] += PINNED
    soft = evidence.soft & ((evidence.names > 0.8) | (_marks(set(pinned.items()), score.shape) > 0))
    score[soft] -= 0.6
    score[~(evidence.fits | soft)] = -9.0
    return score


def _same_numbers(sources: Sequence[Unit], targets: Sequence[Unit], shifts: Shifts) -> np.ndarray:
    ids: dict[tuple[int, ...], int] = {}
    rows, columns = (
        np.array([ids.setdefault(n, len(ids)) for n in counted([u.path for u in units])])
        for units in (sources, targets)
    )
    same: np.ndarray = rows[:, None] == columns
    for pairs, said in ((shifts.misled, False), (shifts.partners, True)):
        for i, j in pairs:
            same[i, j] = said
    return same.astype(np.float32)


def _marks(pairs: set[tuple[int, int]], shape: tuple[int, int]) -> np.ndarray:
    marks = np.zeros(shape, np.float32)
    if pairs:
        rows, columns = np.array(sorted(pairs)).T
        marks[rows, columns] = ORDER
    return marks


def _assign(scores: np.ndarray) -> list[tuple[int, int]]:
    rows, columns = assign(np.maximum(scores, 0.0))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if scores[i, j] > FITS]
