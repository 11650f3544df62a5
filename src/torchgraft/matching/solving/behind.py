"""Norms that stand right behind their layers: where the layers are paired, so are the places of the norms.

One library registers the shortcut of a block first and another last, so that the sequences as a whole agree with only one
of them; within each, a norm still comes next after the layer whose channels it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torchgraft.matching.parts.units import Unit


def behind_layers(
    pairs: Iterable[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]
) -> set[tuple[int, int]]:
    """Return the pairs of norms that stand right behind layers that are paired with each other."""
    to = dict(pairs)
    return {
        (i, j)
        for i, j in to.items()
        if to.get(i - 1) == j - 1 and _is_behind_its_layer(i, sources) and _is_behind_its_layer(j, targets)
    }


def _is_behind_its_layer(at: int, units: Sequence[Unit]) -> bool:
    """Return whether a unit of vectors has as many channels as the layer before it gives, and lies in the same module or in it."""
    if at < 1:
        return False
    layer, norm = units[at - 1], units[at]
    weight, scale = layer.leaves.get("weight"), norm.leaves.get("weight")
    if weight is None or scale is None or len(weight.shape) < 2 or len(scale.shape) != 1:
        return False
    beside = norm.parent in (layer.path, layer.parent)
    return beside and scale.shape[0] in weight.shape[:2]
