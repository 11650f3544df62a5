"""Inputs that the command line names: random tensors of a shape, or the tensors of a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchgraft.core.errors import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHAPE = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*)(?::(?P<low>\d+)-(?P<high>\d+))?")
SEED = 0


def given_inputs(texts: Sequence[str]) -> Any:
    """Return one input for a model: a tuple of arguments, or keywords where names are given.

    Each text is `[NAME=]2x3x224x224` (numbers from the normal distribution), `[NAME=]2x16:0-999` (whole numbers of
    that range), or the path of a file of tensors, whose names are keywords; a file of one tensor is the only argument.
    The one text "guess" is returned as it is: what both models run on is looked for then.

    Raises:
        UsageError: a text is neither, or names and no names are mixed.
        CheckpointError: a file can't be read.
    """
    import torch

    if list(texts) == ["guess"]:
        return texts[0]
    generator = torch.Generator().manual_seed(SEED)
    plain: list[Any] = []
    named: dict[str, Any] = {}
    for text in texts:
        found = _SHAPE.fullmatch(text)
        if found is None:
            tensors = _from_file(text)
            if len(texts) == len(tensors) == 1:
                return tuple(tensors.values())
            named |= tensors
            continue
        shape = [int(n) for n in found["shape"].split("x")]
        if not all(shape):
            raise UsageError(f"--input {printable(text)}: an input without elements shows nothing")
        if found["low"] is None:
            value = torch.randn(shape, generator=generator)
        else:
            low, high = int(found["low"]), int(found["high"])
            if high < low:
                raise UsageError(f"--input {printable(text)}: the range {low}-{high} is empty")
            value = torch.randint(low, high + 1, shape, generator=generator)
        if found["name"]:
            named[found["name"]] = value
        else:
            plain.append(value)
    if plain and named:
        raise UsageError("--input: give names to all inputs or to none")
    return named or tuple(plain)


def _from_file(text: str) -> dict[str, Any]:
    from torchgraft.matching import choose
    from torchgraft.reading import open_checkpoint

    if not Path(text).exists():
        raise UsageError(
            f"--input {printable(text)}: neither a file nor a shape; e.g. 1x3x224x224, input_ids=1x16:0-999, or inputs.pt"
        )
    with open_checkpoint(text) as source:
        network = choose(source.networks, (), None).network
        return {name: source.read(network.path, name) for name in network.specs}
