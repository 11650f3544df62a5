"""Layers of the same name with another number of rows on either side, such as heads for other classes.

A shape that contradicts a name mostly means that layers moved: then all of both sides is weighed. Not so where the layer has
nowhere else to go, because its weight fits nothing else on either side, and nothing else contradicts its name.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from collections.abc import Set as AbstractSet

from torchgraft.core.match import Leaf
from torchgraft.core.names import words
from torchgraft.core.specs import Shape
from torchgraft.matching.parts.units import flat_class, shape_class
from torchgraft.matching.tables.packing import FUSED

# Classes of modules whose rows are outputs, and not entries of a table: the layers of torch.nn itself.
LAYERS = frozenset({"Linear", "NonDynamicallyQuantizableLinear", "Conv1d", "Conv2d", "Conv3d"})


def only_rows_differ(
    unlike: Sequence[tuple[Leaf, Leaf]], shapes: tuple[Iterable[Shape], Iterable[Shape]], owners: Container[str]
) -> bool:
    """Return whether each pair of equal name but other shape is of a whole layer that has other rows, and no other place to go.

    `shapes` are those of all tensors of the file and of the model, `owners` the modules of the model of which some tensor is none
    of the `unlike` ones.
    """
    if not all(_has_other_rows(a, b) and b.owner not in owners for a, b in unlike):
        return False
    weights = {b.owner: (a.shape, b.shape) for a, b in unlike if b.role == "weight"}
    if not weights.keys() >= {b.owner for _, b in unlike}:
        return False
    ours, theirs = map(_classes, shapes)
    return all(_classes([a]).isdisjoint(theirs) and _classes([b]).isdisjoint(ours) for a, b in weights.values())


def _has_other_rows(source: Leaf, target: Leaf) -> bool:
    a, b = source.shape, target.shape
    layer = target.kind in LAYERS and source.form == target.form == "plain" and source.role == target.role
    known = target.role == "weight" or (target.role == "bias" and len(b) == 1)
    fused = any(words(leaf.owner.rpartition(".")[2]) in FUSED for leaf in (source, target))
    return (
        layer
        and known
        and not (fused or target.also)
        and len(a) == len(b) > 0
        and a[0] != b[0]
        and a[1:] == b[1:]
        and 0 not in (*a, *b)
    )


def _classes(shapes: Iterable[Shape]) -> AbstractSet[tuple[bool, Shape]]:
    """Return what shapes must have in common for one to become another by turning it, or by laying axes together."""
    different = set(shapes)
    return {(False, shape_class(shape)) for shape in different} | {(True, flat_class(shape)) for shape in different}
