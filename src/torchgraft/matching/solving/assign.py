"""The assignment with the greatest sum of scores: scipy's implementation of Crouse's shortest augmenting paths (2016)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def assign(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns that belong together, as many as the shorter side has, for the greatest sum."""
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
