"""Both sides cut so that their parts correspond: fused projections by their names, or by the shapes of the other side."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Mapping, Sequence

from torchgraft.core.match import Leaf
from torchgraft.core.names import words
from torchgraft.core.specs import Shape
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.apart import Apart, flat_shape, parts_apart
from torchgraft.matching.parts.cutting import cut, parts_of, with_names_apart
from torchgraft.matching.parts.units import shape_class
from torchgraft.matching.tables.packing import (
    FUSED,
    GATE_UP,
    KV,
    QKV,
    SHAPED,
    Owners,
    Packing,
    any_named_fused,
    entry,
    kept_whole,
    owners_of,
)
from torchgraft.matching.tables.stated import Models, sides_of

KINDS = (QKV, KV, GATE_UP)
# How a fused tensor is cut: the order of its parts, their rows in the usual order, and along which dimension.
Cut = tuple[Packing, tuple[int, ...], int]


def cut_both(
    sources: Sequence[Leaf], targets: Sequence[Leaf], named: Mapping[str, str], models: Models
) -> tuple[list[Leaf], list[Leaf]]:
    """Return the leaves of both sides; fused tensors that agree by name and shape stay whole, all others are cut.

    `named` are the names that pair, source -> target.
    """
    by_target = {leaf.name: leaf for leaf in targets}
    pairs = [(a, by_target[named[a.name]]) for a in sources if a.name in named]
    fused = bool(models.stated.layouts) or any_named_fused(leaf for pair in pairs for leaf in pair)
    owners = (owners_of(sources), owners_of(targets)) if fused else (Owners(), Owners())
    stated = sides_of(models.stated, sources, targets)
    same = [
        (a, b)
        for a, b in pairs
        if a.shape == b.shape
        and kept_whole((a, b), (stated.source.of(a, owners[0]), stated.target.of(b, owners[1])), owners)
    ]
    whole = {a.name for a, _ in same}, {b.name for _, b in same}
    also = _like_whole(same, sources, targets)
    whole = whole[0] | also[0], whole[1] | also[1]
    ours = cut(sources, whole[0], models.source_heads, stated.source, targets)
    theirs = cut(targets, whole[1], models.target.heads_at, stated.target, sources)
    needless = _needlessly_cut(ours, theirs, sources, targets)
    if any(needless):
        ours = cut(sources, whole[0] | needless[0], models.source_heads, stated.source, targets)
        theirs = cut(targets, whole[1] | needless[1], models.target.heads_at, stated.target, sources)
    return cut_by_shape(ours, theirs, whole[0]), cut_by_shape(theirs, ours, whole[1])


def _like_whole(
    same: Sequence[tuple[Leaf, Leaf]], sources: Sequence[Leaf], targets: Sequence[Leaf]
) -> tuple[set[str], set[str]]:
    """Return the tensors of both sides that are left where others of their list stay whole, and are like those.

    Where a layer was put into a list, its last members have no like of the same number: cut, they would find only each other.
    """
    if not same:
        return set(), set()
    kinds = {(_kind(a), _kind(b)) for a, b in same}
    paired = {a.name for a, _ in same}, {b.name for _, b in same}
    left: tuple[dict[object, set[str]], dict[object, set[str]]] = ({}, {})
    for side, leaves in enumerate((sources, targets)):
        shapes = {pair[side].shape for pair in same}
        for leaf in leaves:
            if leaf.shape in shapes and leaf.name not in paired[side]:
                left[side].setdefault(_kind(leaf), set()).add(leaf.name)
    both = [(left[0][a], left[1][b]) for a, b in kinds if a in left[0] and b in left[1]]
    return {name for ours, _ in both for name in ours}, {name for _, theirs in both for name in theirs}


def _kind(leaf: Leaf) -> tuple[str, Shape]:
    """Return what tensors at the same place of a list have in common."""
    return place_of(leaf.name), leaf.shape


def _needlessly_cut(
    ours: Sequence[Leaf], theirs: Sequence[Leaf], sources: Sequence[Leaf], targets: Sequence[Leaf]
) -> tuple[set[str], set[str]]:
    """Return the tensors of either side whose parts have shapes that the other side lacks, while the whole has not.

    A name for fused tensors may stand for something else, or the other side call the same fused tensor otherwise.
    """
    if all(leaf.part is None for side in (ours, theirs) for leaf in side):
        return set(), set()
    there = {shape_class(leaf.shape) for leaf in ours}, {shape_class(leaf.shape) for leaf in theirs}
    found: tuple[set[str], set[str]] = set(), set()
    for side, (parts, leaves) in enumerate(((ours, sources), (theirs, targets))):
        other = there[1 - side]
        foreign = {leaf.keys for leaf in parts if leaf.part is not None and shape_class(leaf.shape) not in other}
        found[side].update(leaf.name for leaf in leaves if leaf.keys in foreign and shape_class(leaf.shape) in other)
    return found


def cut_by_shape(leaves: Sequence[Leaf], others: Sequence[Leaf], whole: Container[str]) -> list[Leaf]:
    """Return the leaves, with those cut that are as tall as parts of the other side together.

    Queries, keys and values of an attention, or keys and values alone; gate and up of a network whose way back down lies
    beside. The other side must lack such a whole tensor, or have fewer of its shape, and have more of the shapes of its
    parts. The order of rows is that of the entry for such a name, or else the usual one: no more than a guess.
    """
    theirs = _shapes_of(others)
    if not any(count > theirs[shape] for shape, count in _shapes_of(leaves).items()):
        return list(leaves)
    templates: set[Apart] | None = None
    out, owners = list(leaves), {key.rpartition(".")[0] for leaf in leaves for key in leaf.keys}
    for _ in range(len(KINDS)):  # what is cut first shows what is left of a shape
        ours = _shapes_of(out)
        odd = [
            leaf for leaf in out if _is_whole(leaf) and leaf.name not in whole and _is_more(leaf.shape, ours, theirs)
        ]
        if not odd:
            break
        templates = set(parts_apart(others)) if templates is None else templates
        found = _fitting(odd, [t for t in templates if _is_scarce(t, ours, theirs)], out)
        if not found:
            break
        cuts = {leaf.owner: (_packing(leaf, apart.parts, owners), apart.rows, dim) for leaf, apart, dim in found}
        out = with_names_apart(out, [_cut(leaf, cuts.get(leaf.owner)) for leaf in out])
    return out


def _shapes_of(leaves: Sequence[Leaf]) -> Counter[Shape]:
    """Return how many matrices of each shape there are; in a large model many are alike."""
    found: Counter[Shape] = Counter()
    for (role, form, shape), count in Counter([(leaf.role, leaf.form, leaf.shape) for leaf in leaves]).items():
        if role == "weight" and form == "plain" and len(flat_shape(shape)) == 2:
            found[shape_class(shape)] += count
    return found


def _is_more(shape: Shape, ours: Counter[Shape], theirs: Counter[Shape]) -> bool:
    return ours[shape_class(shape)] > theirs[shape_class(shape)]


def _fitting(odd: Sequence[Leaf], templates: Sequence[Apart], leaves: Sequence[Leaf]) -> list[tuple[Leaf, Apart, int]]:
    """Return what leaves are to be cut into and along which dimension, where one thing fits.

    Parts side by side, as in a matrix that is stored [in, out], only where nothing fits as parts below each other. What the
    module has by name it has no second time.
    """
    if not templates:
        return []
    inside: dict[str, set[Shape]] = defaultdict(set)
    named: dict[str, set[str]] = defaultdict(set)
    for leaf in leaves:
        if _is_matrix(leaf):
            parent, _, last = leaf.owner.rpartition(".")
            inside[parent].add(shape_class(leaf.shape))
            named[parent].update(canonical(last)[-1:], *(one.parts for one in FUSED.get(words(last), ())))
    for dim in (0, 1):
        found = []
        for leaf in odd:
            parent, turned = leaf.owner.rpartition(".")[0], dim in _row_dims(leaf)
            fits = [
                t
                for t in templates
                if turned
                and named[parent].isdisjoint(t.parts)
                and _adds_up(flat_shape(leaf.shape), dim, t, inside[parent])
            ]
            if len(fits) == 1:
                found.append((leaf, fits[0], dim))
        if found:
            return found
    return []


def _is_scarce(apart: Apart, ours: Counter[Shape], theirs: Counter[Shape]) -> bool:
    classes = {shape_class((rows, apart.columns)) for rows in apart.rows}
    return all(ours[found] < theirs[found] for found in classes)


def _cut(leaf: Leaf, cut: Cut | None) -> list[Leaf]:
    if cut is None or leaf.form != "plain" or leaf.part is not None or leaf.role not in ("weight", "bias"):
        return [leaf]
    packing, rows, dim = cut
    usual = next(kind for kind in KINDS if sorted(kind) == sorted(packing.parts))
    sizes = tuple(rows[usual.index(label)] for label in packing.parts)
    return parts_of(leaf, leaf.owner.rpartition(".")[0], packing, sizes, dim if len(leaf.shape) == 2 else 0)


def _is_matrix(leaf: Leaf) -> bool:
    return leaf.role == "weight" and len(flat_shape(leaf.shape)) == 2 and leaf.form == "plain"


def _is_whole(leaf: Leaf) -> bool:
    """Whether a leaf may be a fused matrix: what its name could not cut, such as rows head by head, stays whole."""
    return _is_matrix(leaf) and leaf.part is None and words(leaf.owner.rpartition(".")[2]) not in FUSED


def _row_dims(leaf: Leaf) -> tuple[int, ...]:
    return (0, 1) if leaf.turned is None and len(leaf.shape) == 2 else (int(leaf.turned or False),)


def _adds_up(shape: Shape, dim: int, apart: Apart, beside: Container[Shape]) -> bool:
    if shape[dim] != sum(apart.rows) or shape[1 - dim] != apart.columns:
        return False
    return apart.parts == QKV or shape_class((apart.columns, apart.rows[0])) in beside


def _packing(leaf: Leaf, parts: tuple[str, ...], owners: Container[str]) -> Packing:
    """Return the entry for a name of these parts, or the usual order without a source."""
    found = entry(SHAPED.get(words(leaf.owner.rpartition(".")[2]), ()), leaf.keys[0].rpartition(".")[0], owners)
    return found if found and sorted(found.parts) == sorted(parts) else Packing(parts=parts)
