"""Which module is running: seen through hooks on all modules, that are there during a recording only."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from torchgraft.core.places import modules

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn


class Whereabouts:
    """The path and class of the innermost module of one model that is running now."""

    def __init__(self, model: nn.Module) -> None:
        self._paths: dict[int, str] = {}
        for path, module in modules(model):
            self._paths.setdefault(id(module), path)
        self._stack: list[tuple[str, str]] = []

    @property
    def now(self) -> tuple[str, str]:
        """Path and class name of the innermost running module."""
        return self._stack[-1] if self._stack else ("", "")

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow the model: no module gets a hook of its own, and what was added is gone afterwards."""

        def enter(module: nn.Module, _: object) -> None:
            path = self._paths.get(id(module))
            if path is not None:
                self._stack.append((path, type(module).__name__))

        def leave(module: nn.Module, *_: object) -> None:
            if id(module) in self._paths and self._stack:
                self._stack.pop()

        hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
