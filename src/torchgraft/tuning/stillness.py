"""Keeping modules in evaluation mode through every `model.train()`: statistics and dropout stand still.

`nn.Module.train` calls `train` of each child, so one attribute on the module itself is enough: it survives nested
calls, `copy.deepcopy` (the copy's attribute acts on the copy) and pickling, and no forward pass gets slower.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

# Buffers that a forward pass in training mode changes: norm statistics, power iteration (spectral norm, both ways of
# writing it), averages of codebooks.
MOVING = frozenset({
    "running_mean", "running_var", "num_batches_tracked", "_u", "_v", "weight_u", "weight_v", "cluster_size", "embed_avg",
})  # fmt: skip


def stay_in_eval(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: FBT001, FBT002  # the signature of train()
    """Put `module` and all below it into evaluation mode, whatever `mode` says."""
    del mode
    module.training = False
    for child in module.children():
        child.train(False)
    return module


def still(module: nn.Module, root: nn.Module) -> Callable[[], None]:
    """Keep `module`, a part of `root`, in evaluation mode from now on; return what takes that back.

    Taken back, it is in the mode it was in, or, if the mode of `root` has changed meanwhile, in that one.
    """
    before = vars(module).get("train")
    flags = [(inner, inner.training) for inner in module.modules()]
    module.train = partial(stay_in_eval, module)  # type: ignore[method-assign]
    stay_in_eval(module)
    mode = root.training

    def undo() -> None:
        if before is None:
            vars(module).pop("train", None)
        else:
            module.train = before  # type: ignore[method-assign]
        if root.training != mode:
            module.train(root.training)
            return
        for inner, training in flags:
            inner.training = training

    return undo


def is_still(module: nn.Module) -> bool:
    """Return whether `module` is kept in evaluation mode."""
    own = vars(module).get("train")
    return isinstance(own, partial) and own.func is stay_in_eval
