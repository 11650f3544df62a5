"""Keeping modules in evaluation mode through every `model.train()`, so that statistics stay and dropout is off.

`nn.Module.train` calls `train` of each child, so one attribute on the module itself is enough: it survives nested
calls, `copy.deepcopy` (the copy's attribute acts on the copy) and pickling, and no forward pass gets slower.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from torchgraft.core.types import Module

Property = tuple[int, str]
_CHANGES: dict[Property, list[weakref.ref[ReversibleChange]]] = {}


class ReversibleChange:
    """One property of one object, changed: what it was before, and how to put that back.

    The object stays alive as long as the change. One that is dropped without being undone is no change any more: its
    property stays as it is, and the others don't wait for it.
    """

    __slots__ = ("__weakref__", "_before", "_key", "_owner", "_put_back")

    def __init__(self, owner: object, name: str, before: Any, put_back: Callable[[Any], None]) -> None:
        self._owner = owner
        self._before = before
        self._put_back = put_back
        self._key = (id(owner), name)
        _CHANGES.setdefault(self._key, []).append(weakref.ref(self, partial(_forget, self._key)))

    def undo(self) -> None:
        """Put back what was there before, or let the next later change of the same property do that; once."""
        made = [change for ref in _CHANGES.get(self._key, ()) if (change := ref()) is not None]
        at = next((n for n, change in enumerate(made) if change is self), None)
        if at is None:
            return
        _CHANGES[self._key] = [ref for ref in _CHANGES[self._key] if ref() is not self]
        if at + 1 < len(made):
            made[at + 1]._before = self._before  # noqa: SLF001  # one of its kind
        else:
            self._put_back(self._before)


def _forget(key: Property, ref: weakref.ref[ReversibleChange]) -> None:
    left = [other for other in _CHANGES.get(key, ()) if other is not ref]
    if left:
        _CHANGES[key] = left
    else:
        _CHANGES.pop(key, None)


# Buffers that a forward pass in training mode changes: norm statistics, power iteration (spectral norm, both ways of
# writing it), averages of codebooks.
UPDATED_BUFFERS = frozenset({
    "running_mean", "running_var", "num_batches_tracked", "_u", "_v", "weight_u", "weight_v", "cluster_size", "embed_avg",
})  # fmt: skip


def ignore_train(module: Module, mode: bool = True) -> Module:  # noqa: FBT001, FBT002  # the signature of train()
    """Put `module` and all below it into evaluation mode, whatever `mode` says."""
    del mode
    module.training = False
    for child in module.children():
        child.train(False)
    return module


def keep_in_eval(module: Module, root: Module) -> Callable[[], None]:
    """Keep `module`, a part of `root`, in evaluation mode from now on; return what takes that back.

    Taken back, it is in the mode it was in, or, if the mode of `root` has changed meanwhile, in that one.
    """

    def put_back(before: Callable[..., Module] | None) -> None:
        if before is None:
            vars(module).pop("train", None)
        else:
            module.train = before  # type: ignore[method-assign]
        if root.training != mode and not _is_inside_kept(module, root):
            module.train(root.training)

    def put_flag_back(inner: Module, training: bool) -> None:  # noqa: FBT001
        if root.training == mode:
            inner.training = training

    changes = [
        ReversibleChange(inner, "mode", inner.training, partial(put_flag_back, inner)) for inner in module.modules()
    ]
    changes.append(ReversibleChange(module, "train", vars(module).get("train"), put_back))
    mode = root.training

    def undo() -> None:
        for change in reversed(changes):  # the outermost flag last: that of the root is asked for
            change.undo()

    try:
        module.train = partial(ignore_train, module)  # type: ignore[method-assign]
        ignore_train(module)
        mode = root.training  # after it: `module` may be the root itself
    except BaseException:
        undo()
        raise
    return undo


def _is_inside_kept(module: Module, root: Module) -> bool:
    """Return whether a module around `module` is kept in evaluation mode."""
    return any(is_kept_in_eval(outer) and any(inner is module for inner in outer.modules()) for outer in root.modules())


def is_kept_in_eval(module: Module) -> bool:
    """Return whether `module` is kept in evaluation mode."""
    own = vars(module).get("train")
    return isinstance(own, partial) and own.func is ignore_train
