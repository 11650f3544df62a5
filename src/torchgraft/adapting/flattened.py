"""Layers behind maps that were flattened: in a file with channels last, their columns go position by position.

torch flattens [channels, height, width], TensorFlow, Keras and Flax [height, width, channels]: the same numbers in another
order, which no shape shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torchgraft.adapting.fit import Fit
from torchgraft.adapting.orientation import MATRIX_TABLES, WEIGHTS
from torchgraft.core.match import Leaf
from torchgraft.core.plan import Certainty
from torchgraft.ops import Permute, Reshape

UNSURE = (
    "the file keeps channels last, so that columns for flattened maps go position by position; they are put channel by channel, "
    "as torch flattens, unless the model's code moves the channels last itself (permute= keeps the columns)"
)


def behind_maps(leaves: Iterable[Leaf]) -> dict[str, int]:
    """Return slot -> channels of the maps that it may take flattened, for the first matrix behind each convolution.

    `leaves` are the model's. Columns for flattened maps are a multiple of the channels that the convolution gives.
    """
    found: dict[str, int] = {}
    channels = 0
    for leaf in sorted(leaves, key=lambda leaf: leaf.order):
        if leaf.role not in WEIGHTS or len(leaf.shape) < 2 or leaf.kind in MATRIX_TABLES:
            continue
        if len(leaf.shape) > 2:
            channels = leaf.shape[int(leaf.kind.startswith("ConvTranspose"))]
            continue
        columns = leaf.shape[int(not leaf.turned)]
        if channels > 1 and columns > channels and columns % channels == 0:
            found[leaf.keys[0]] = channels
        channels = 0
    return found


def unflattened(fit: Fit, target: Leaf, channels: int) -> Fit:
    """Return the fit with the columns of the matrix [out, in] channel by channel: no more than a doubt."""
    if fit.ops is None or len(target.shape) != 2 or target.turned:
        return fit
    rows, columns = target.shape
    order = Reshape((rows, columns // channels, channels)), Permute((0, 2, 1)), Reshape((rows, columns))
    text = "; ".join(filter(None, (fit.text, UNSURE)))
    return replace(fit, ops=(*fit.ops, *order), text=text, certainty=Certainty.DOUBT)
