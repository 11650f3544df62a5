"""More than fingerprints of a run: values as a whole, what a module is called with, how outputs depend on tensors."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from torchgraft.core.places import places
from torchgraft.core.results.recording import Value
from torchgraft.core.types import Module, Tensor
from torchgraft.verifying.tracing import call, named_tensors, untouched
from torchgraft.verifying.tracing.recorder import ModuleTracker, Recorder

# What a module is called with.
Arguments = tuple[tuple[Any, ...], dict[str, Any]]

# Slopes along an axis are the same within this, relative to the greatest.
_SAME_SLOPE = 1e-4


class CapturingRecorder(Recorder):
    """A recorder that copies the values of some numbers into `kept`: numbers that an earlier run of the same gave them."""

    def __init__(
        self, tracker: ModuleTracker, names: Mapping[int, str], *, wanted: Container[int], kept: dict[int, Tensor]
    ) -> None:
        super().__init__(tracker, names)
        self._wanted, self._kept = wanted, kept

    def _add(self, tensor: Tensor, value: Value) -> int:
        number = super()._add(tensor, value)
        if number in self._wanted:
            self._kept[number] = tensor.detach().clone()
        return number


class _ModuleCalled(Exception):  # noqa: N818  # no error: it ends a run that has shown what was wanted
    """All modules that are looked at were called."""


def call_arguments(model: Module, given: Any, inside: Sequence[Module]) -> list[Arguments | None]:
    """Run `model` on an input until each of some modules `inside` of it was called; return copies of what they got first.

    None stands for one that is never called. What is neither a tensor, a plain value nor a nesting of these (caches, say)
    becomes None. Memory: the arguments of all these modules.
    """
    wanted = {
        id(module): module for module in inside if not isinstance(module, torch.jit.ScriptModule)
    }  # takes no hooks
    calls: dict[int, Arguments] = {}

    def note(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if id(module) not in calls:
            calls[id(module)] = tree_map(_plain, args), tree_map(_plain, kwargs)
        if len(calls) == len(wanted):
            raise _ModuleCalled

    with untouched(model, eval_mode=True) as shield, ExitStack() as hooks:
        for module in wanted.values():
            hooks.callback(module.register_forward_pre_hook(note, with_kwargs=True).remove)
        with suppress(Exception), shield.opened():  # the model's own code may raise anything before that
            call(model, given)
    return [calls.get(id(module)) for module in inside]


def can_run(model: Module, given: Any) -> bool:
    """Whether a model runs on an input; it is afterwards as it was before."""
    with untouched(model, eval_mode=True) as shield, shield.opened():
        try:
            call(model, given)
        except Exception:  # noqa: BLE001  # the model's own code may raise anything
            return False
    return True


def as_call(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """Return an input that runs a module on arguments and keywords."""
    args, kwargs = arguments
    return partial(_on, args=args, kwargs=kwargs)


def _on(module: Module, *, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    own, named = tree_map(_plain, args), tree_map(_plain, kwargs)
    return module(*own, **named)


def _plain(one: Any) -> Any:
    """Return a copy of a tensor, a plain value as it is, and None for the rest."""
    if isinstance(one, torch.Tensor):
        return one.detach().clone()
    return one if isinstance(one, (bool, int, float, str)) else None


def output_sensitivity(
    model: Module, given: Any, names: Collection[str], outputs: Collection[str]
) -> Mapping[str, float]:
    """Return for each named tensor about how much outputs would change if it were replaced by another of its size.

    That is |d out / d tensor| times the root mean square of the tensor, relative to the greatest entry of the output,
    for a random combination of entries of the named outputs. Tensors of which no gradient comes are left out. The
    model is afterwards as it was; nothing is added to its gradients.
    """
    return {
        name: float(slope.double().norm()) * _root_mean_square(tensor)
        for name, (tensor, slope) in _slopes(model, given, names, outputs).items()
    }


def without_order(model: Module, given: Any, names: Collection[str], outputs: Collection[str]) -> frozenset[str]:
    """Return the named tensors whose entries could stand in another order along some axis without this input showing it.

    There d out / d tensor is the same all along the axis, so that outputs depend on the sum of the entries alone: an image of
    one color shows that of a kernel's columns. A tensor that is the same all along the axis itself has no order.
    """
    return frozenset(
        name
        for name, (tensor, slope) in _slopes(model, given, names, outputs).items()
        if any(
            tensor.shape[axis] > 1 and _repeats(slope, axis, _SAME_SLOPE) and not _repeats(tensor, axis, 0.0)
            for axis in range(tensor.dim())
        )
    )


def _repeats(tensor: Tensor, axis: int, rounding: float) -> bool:
    """Return whether a tensor that isn't all zeros is the same all along an axis."""
    size = tensor.abs().max()
    return bool(size > 0) and bool((tensor - tensor.narrow(axis, 0, 1)).abs().max() <= rounding * size)


def repeats_along_an_axis(given: Any) -> bool:
    """Return whether real numbers in an input are the same along an axis other than the first, as those of `torch.ones` are.

    What a callable runs a model on is not known, and is taken for such.
    """
    if callable(given) and not isinstance(given, torch.Tensor):
        return True
    tensors = [one for one in tree_leaves(given) if isinstance(one, torch.Tensor) and one.is_floating_point()]
    return any(
        one.numel() > 0 and (one == one.narrow(axis, 0, 1)).all()
        for one in tensors
        for axis in range(1, one.dim())
        if one.shape[axis] > 1
    )


def _slopes(
    model: Module, given: Any, names: Collection[str], outputs: Collection[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the named tensors, each with the gradient of a random combination of outputs; none where there are none."""
    found = {place.name: place.tensor for place in places(model) if place.name in names}
    wanted = {name: t for name, t in found.items() if t.is_floating_point() and t.is_leaf}
    flags = [(tensor, tensor.requires_grad) for tensor in wanted.values()]
    with untouched(model, eval_mode=True) as shield:
        try:
            for tensor in wanted.values():
                tensor.requires_grad = True
            with torch.enable_grad(), shield.opened():
                try:
                    total = _random_combination(named_tensors(call(model, given)), outputs)
                    slopes = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
                except Exception:  # noqa: BLE001  # the model's own code, which may not be differentiable
                    return {}
        finally:
            for tensor, flag in flags:
                tensor.requires_grad = flag
    return {
        name: (tensor.detach(), slope)
        for (name, tensor), slope in zip(wanted.items(), slopes, strict=True)
        if slope is not None
    }


def _random_combination(outputs: Mapping[str, Tensor], names: Collection[str]) -> Tensor:
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


def _root_mean_square(tensor: Tensor) -> float:
    """Return the root mean square of a tensor; 1 for zeros, which might be anything else."""
    return float(tensor.double().square().mean().sqrt()) or 1.0
