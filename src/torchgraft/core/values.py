"""Values of two tensors side by side. NaN equals NaN here: it is what both hold."""

from __future__ import annotations

from torchgraft.core.types import Tensor


def agreeing(a: Tensor, b: Tensor) -> Tensor:
    """Return where two tensors of one shape hold the same."""
    return (a == b) | ((a != a) & (b != b))  # noqa: PLR0124  # true of NaN alone, in every type


def same_values(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors agree in shape, type and every value."""
    import torch

    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_floating_point() and a.element_size() == 1:  # torch compares few such types
        a, b = a.float(), b.float()
    return torch.equal(a, b) or bool(agreeing(a, b).all())
