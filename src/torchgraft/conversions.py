"""Conversion functions of others, learned: reading says what they are given, learning what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torchgraft import learning
from torchgraft.core.specs import TensorSpec
from torchgraft.matching import choose, require_weights
from torchgraft.reading import open_checkpoint
from torchgraft.reporting import renderers

if TYPE_CHECKING:
    import torch

    from torchgraft.learning import Learned


def learn(convert: Callable[[dict[str, torch.Tensor]], Any], source: object, *, prefer: str | None = None) -> Learned:
    """Return what a conversion function does to a state dict, as a plan of renames, cuts, permutations and joins.

    The function is run a few times on tensors whose elements say where they come from, then on random values, on which
    the learned plan must give the same to the last bit. What is no move of data is in `computed`, with its sources.

    Args:
        convert: gets a dictionary of tensors, and returns one (or a module), or changes the one that it was given.
        source: the names, shapes and types to convert: a checkpoint, a module, or a dictionary name -> TensorSpec.
        prefer: which of several networks of the checkpoint.

    Raises:
        UsageError: the function fails, or gives no state dict.
        CheckpointError: the checkpoint can't be read.
    """
    shown = replace(renderers("conversion"), to_dict=learning.to_plain)
    if isinstance(source, dict) and source and all(isinstance(spec, TensorSpec) for spec in source.values()):
        return learning.learn(convert, source, shown)
    with open_checkpoint(source) as opened:
        require_weights(opened.networks, opened.origin)
        specs = choose(opened.networks, (), prefer).network.specs
    return learning.learn(convert, specs, shown)
