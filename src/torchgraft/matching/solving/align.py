"""Alignment of two sequences with insertions and deletions (Needleman and Wunsch, 1970), a row at a time in numpy.

Gaps cost nothing; runs of consecutive matches earn a bonus, so that an inserted layer is skipped as a whole.
"""

from __future__ import annotations

import numpy as np

RUN_BONUS = np.float32(0.15)


def align(scores: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs (row, column), both increasing, whose scores and runs add up to the most.

    Only positive scores are taken. Time and memory: rows × columns, a few numpy operations a row.
    """
    rows, columns = scores.shape
    gap = np.zeros((rows + 1, columns + 1), np.float32)
    hit = np.full((rows + 1, columns + 1), -np.inf, np.float32)
    for i in range(1, rows + 1):
        row = scores[i - 1]
        before = np.maximum(gap[i - 1, :-1], hit[i - 1, :-1] + RUN_BONUS)
        hit[i, 1:] = np.where(row > 0, row + before, -np.inf)
        best = np.maximum(gap[i - 1], hit[i - 1])
        best[1:] = np.maximum(best[1:], hit[i, :-1])
        gap[i] = np.maximum.accumulate(best)
    return _trace(scores, gap, hit)


def _trace(scores: np.ndarray, gap: np.ndarray, hit: np.ndarray) -> list[tuple[int, int]]:
    i, j = scores.shape
    pairs: list[tuple[int, int]] = []
    on_hit = bool(hit[i, j] > gap[i, j])
    while i > 0 and j > 0:
        if on_hit:
            pairs.append((i - 1, j - 1))
            on_hit = bool(hit[i - 1, j - 1] + RUN_BONUS > gap[i - 1, j - 1])
            i, j = i - 1, j - 1
        elif hit[i - 1, j] >= gap[i, j]:
            i, on_hit = i - 1, True
        elif hit[i, j - 1] >= gap[i, j]:
            j, on_hit = j - 1, True
        elif gap[i - 1, j] >= gap[i, j]:
            i -= 1
        else:
            j -= 1
    return pairs[::-1]
