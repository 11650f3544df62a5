"""Tensors of the same name and another shape that have nowhere else to go: heads for other classes, tables for other images.

A shape that contradicts a name mostly means that layers moved: then all of both sides is weighed. Not so where the tensor fits
nothing else on either side, and nothing else contradicts its name: then it is the same one, of another size.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from collections.abc import Set as AbstractSet

from torchgraft.core.match import Leaf
from torchgraft.core.names import words
from torchgraft.core.specs import Shape
from torchgraft.matching.parts.units import flat_class, shape_class
from torchgraft.matching.tables.packing import FUSED

Pairs = Sequence[tuple[Leaf, Leaf]]
Shapes = tuple[Iterable[Shape], Iterable[Shape]]
# Classes of modules whose rows are outputs, and not entries of a table: the layers of torch.nn itself.
LAYERS = frozenset({"Linear", "NonDynamicallyQuantizableLinear", "Conv1d", "Conv2d", "Conv3d"})


def have_nowhere_else(unlike: Pairs, shapes: Shapes) -> bool:
    """Return whether the pairs of equal name and other shape can be no others, as no matrix or kernel of them fits elsewhere.

    `shapes` are those of all tensors of the file and of the model. A vector goes where the matrix of its module goes; what
    holds rows that libraries fuse in several orders, or has several names, may go over in parts, and is left to be weighed.
    """
    large = [(a, b) for a, b in unlike if min(len(a.shape), len(b.shape)) > 1]
    with_vectors = {b.owner for _, b in large}
    if not all(_is_plain(a) and _is_plain(b) and not b.also and b.owner in with_vectors for a, b in unlike):
        return False
    ours, theirs = map(_classes, shapes)
    return _classes(a.shape for a, _ in large).isdisjoint(theirs) and _classes(b.shape for _, b in large).isdisjoint(
        ours
    )


def only_rows_differ(unlike: Pairs, shapes: Shapes, owners: Container[str]) -> bool:
    """Return whether they are also whole layers that have other rows, which can't be made of the old ones.

    `owners` are the modules of the model of which some tensor is none of the `unlike` ones.
    """
    fits = all(_has_other_rows(a, b) and b.owner not in owners for a, b in unlike)
    return fits and have_nowhere_else(unlike, shapes)


def _has_other_rows(source: Leaf, target: Leaf) -> bool:
    a, b = source.shape, target.shape
    known = target.role == "weight" or (target.role == "bias" and len(b) == 1)
    layer = known and source.role == target.role and target.kind in LAYERS
    return layer and len(a) == len(b) and a[0] != b[0] and a[1:] == b[1:] and 0 not in (*a, *b)


def _is_plain(leaf: Leaf) -> bool:
    return leaf.form == "plain" and words(leaf.owner.rpartition(".")[2]) not in FUSED


def _classes(shapes: Iterable[Shape]) -> AbstractSet[tuple[bool, Shape]]:
    """Return what shapes must have in common for one to become another by turning it, or by laying axes together."""
    different = set(shapes)
    return {(False, shape_class(shape)) for shape in different} | {(True, flat_class(shape)) for shape in different}
