"""Keeps whole values of a run, where fingerprints are not enough, and what a module inside of a model is called with."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._pytree import tree_map

from torchgraft.core.system.shield import Shield
from torchgraft.verifying.tracing.outputs import call
from torchgraft.verifying.tracing.recorder import Recorder
from torchgraft.verifying.tracing.restore import untouched

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from torch import nn

    from torchgraft.core.results.recording import Value
    from torchgraft.verifying.tracing.whereabouts import Whereabouts


class Capturing(Recorder):  # type: ignore[no-untyped-call]  # torch: a mode has no types
    """A recorder that copies the values of some numbers into `kept`: numbers that an earlier run of the same gave them."""

    def __init__(
        self, where: Whereabouts, names: Mapping[int, str], *, wanted: Container[int], kept: dict[int, torch.Tensor]
    ) -> None:
        super().__init__(where, names)
        self._wanted, self._kept = wanted, kept

    def _add(self, tensor: torch.Tensor, value: Value) -> int:
        number = super()._add(tensor, value)
        if number in self._wanted:
            self._kept[number] = tensor.detach().clone()
        return number


class Called(Exception):  # noqa: N818  # no error: it ends a run that has shown what was wanted
    """A module was called."""


def arguments_of(model: nn.Module, given: Any, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Run `model` on an input until `module`, inside of it, is called; return copies of its arguments, None if it never is.

    What is neither a tensor, a plain value nor a nesting of these (caches, say) becomes None.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return None  # they take no hooks
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((tree_map(_plain, args), tree_map(_plain, kwargs)))
        raise Called

    with Shield() as shield, untouched(model, evaluating=True):
        hook = module.register_forward_pre_hook(note, with_kwargs=True)
        try:
            with suppress(Exception), shield.opened():  # the model's own code may raise anything before that
                call(model, given)
        finally:
            hook.remove()
    return seen[0] if seen else None


def runs(model: nn.Module, given: Any) -> bool:
    """Whether a model runs on an input; it is afterwards as it was before."""
    with Shield() as shield, untouched(model, evaluating=True), shield.opened():
        try:
            call(model, given)
        except Exception:  # noqa: BLE001  # the model's own code may raise anything
            return False
    return True


def as_call(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    """Return an input that runs a module on arguments and keywords."""
    args, kwargs = arguments
    return partial(_on, args=args, kwargs=kwargs)


def _on(module: nn.Module, *, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    own, named = tree_map(_plain, args), tree_map(_plain, kwargs)
    return module(*own, **named)


def _plain(one: Any) -> Any:
    """Return a copy of a tensor, a plain value as it is, and None for the rest."""
    if isinstance(one, torch.Tensor):
        return one.detach().clone()
    return one if isinstance(one, (bool, int, float, str)) else None
