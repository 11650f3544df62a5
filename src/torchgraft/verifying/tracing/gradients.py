"""How much the outputs of a model depend on each of its tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from torchgraft.core.places import places
from torchgraft.core.system.shield import Shield
from torchgraft.verifying.tracing.outputs import call, named_tensors
from torchgraft.verifying.tracing.restore import untouched

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import nn


def influences(model: nn.Module, given: Any, names: Collection[str], outputs: Collection[str]) -> Mapping[str, float]:
    """Return for each of the named tensors by about how much outputs would change if it were another of its size.

    That is |d out / d tensor| times the root mean square of the tensor, relative to the greatest entry of the output,
    for a random combination of entries of the named outputs. Tensors of which no gradient comes are left out. The
    model is afterwards as it was; nothing is added to its gradients.
    """
    found = {place.name: place.tensor for place in places(model) if place.name in names}
    wanted = {name: t for name, t in found.items() if t.is_floating_point() and t.is_leaf}
    flags = [(tensor, tensor.requires_grad) for tensor in wanted.values()]
    with Shield() as shield, untouched(model, evaluating=True):
        try:
            for tensor in wanted.values():
                tensor.requires_grad = True
            with torch.enable_grad(), shield.opened():
                try:
                    total = _combined(named_tensors(call(model, given)), outputs)
                    slopes = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
                except Exception:  # noqa: BLE001  # the model's own code, which may not be differentiable
                    return {}
        finally:
            for tensor, flag in flags:
                tensor.requires_grad = flag
    return {
        name: float(slope.double().norm()) * _size(tensor.detach())
        for (name, tensor), slope in zip(wanted.items(), slopes, strict=True)
        if slope is not None
    }


def _combined(outputs: Mapping[str, torch.Tensor], names: Collection[str]) -> torch.Tensor:
    """Return a random combination of all entries, those of each output relative to its greatest."""
    draw = torch.Generator("cpu").manual_seed(0)
    total = torch.zeros((), device="cpu")
    for name in names:
        out = outputs[name]
        sizes = out.detach().abs()
        size = sizes[sizes.isfinite()].max()
        weights = torch.randn(out.shape, generator=draw, device="cpu").to(out.device, out.dtype)
        total = total + (torch.where(sizes.isfinite(), out, 0.0) * weights).sum().cpu() / size.cpu()
    return total


def _size(tensor: torch.Tensor) -> float:
    """Return the root mean square of a tensor; 1 for zeros, which might be anything else."""
    return float(tensor.double().square().mean().sqrt()) or 1.0
