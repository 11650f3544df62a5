"""The base that a table of rotary frequencies was made with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from torchgraft.core.results.verification import Cause

CLOSE = 1e-4


def base_of(frequencies: torch.Tensor) -> float | None:
    """Return the base of frequencies base^(-k / n), k = 0 ... n - 1; None for what is no such table.

    The formula is that of RoFormer (Su et al., 2021): theta_i = 10000^(-2 (i - 1) / d), with n = d / 2.
    """
    import torch

    flat = frequencies.detach().to("cpu", torch.float64).reshape(-1)
    size = len(flat)
    if size < 2 or not bool((flat > 0).all()) or abs(float(flat[0]) - 1) > CLOSE or float(flat[1]) >= 1:
        return None
    base = float(flat[1]) ** -size
    made = base ** (-torch.arange(size, dtype=torch.float64, device="cpu") / size)
    if not bool(((flat - made).abs() <= CLOSE * made).all()):
        return None
    return float(f"{base:.4g}")


def with_bases(cause: Cause, model: Mapping[str, torch.Tensor], source: Mapping[str, torch.Tensor]) -> Cause:
    """Return a cause that names two tables of frequencies with the bases that they were made with, where these show."""
    if cause.kind != "rotary" or cause.target not in model or cause.source not in source:
        return cause
    bases = base_of(model[str(cause.target)]), base_of(source[str(cause.source)])
    if None in bases or bases[0] == bases[1]:
        return cause
    return replace(
        cause,
        target=bases[0],
        source=bases[1],
        remedy=f"build the model with base {bases[1]:g}",
        text=f"{cause.target} is a table of rotary frequencies of base {bases[0]:g}, {cause.source} of the source one of "
        f"base {bases[1]:g}",
    )
