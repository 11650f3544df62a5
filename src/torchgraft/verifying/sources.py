"""Comparison of tensors within a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchgraft.core.specs import Source


def same_values(source: Source, network: str, first: str, second: str) -> bool:
    """Return whether two tensors of a network agree in shape, dtype and every value (NaN equals NaN)."""
    import torch

    a, b = source.read(network, first), source.read(network, second)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(torch.equal(a, b) or (a.is_floating_point() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)))
