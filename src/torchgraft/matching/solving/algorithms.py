"""The two optimisations that solving rests on: alignment of two sequences, and assignment of pairs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

# Consecutive matches earn this, so that an inserted layer is skipped as a whole; gaps cost nothing.
RUN_BONUS = np.float32(0.15)


def align(scores: np.ndarray) -> list[tuple[int, int]]:
    """Return the pairs (row, column), both increasing, whose scores and runs add up to the most.

    The algorithm of Needleman and Wunsch (1970), a row at a time. Only positive scores are taken. Time and memory:
    rows × columns, a few numpy operations a row.
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


def assign(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns that belong together, as many as the shorter side has, for the greatest sum.

    scipy's implementation of Crouse's shortest augmenting paths (2016).
    """
    rows, columns = _implementation()(scores, maximize=True)
    return rows, columns


@cache
def _implementation() -> Callable[..., Any]:
    """Return scipy's function, from its own small module where that can be had.

    All of scipy.optimize takes longer to import than most models take to match.
    """
    return _alone() or _imported()


def _alone() -> Callable[..., Any] | None:
    import scipy

    folder = Path(scipy.__file__).parent / "optimize"
    path = next((p for end in EXTENSION_SUFFIXES if (p := folder / f"_lsap{end}").is_file()), None)
    spec = spec_from_file_location("scipy.optimize._lsap", path) if path else None
    if spec is None or spec.loader is None:
        return None
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError:
        return None
    return getattr(module, "linear_sum_assignment", None)


def _imported() -> Callable[..., Any]:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment  # type: ignore[no-any-return]  # scipy has no types
