"""Layers whose output is cut in parts, and goes over whole between two names: code puts the parts in either order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from itertools import islice

from torchgraft.core.match import Leaf, Match
from torchgraft.core.names import around, words
from torchgraft.core.specs import Shape
from torchgraft.matching.names.words import canonical
from torchgraft.matching.reviewing.finished import Finished
from torchgraft.matching.tables.dialect import ANY_LAYER, ANY_PLACE, MODULATING, WRAPPERS
from torchgraft.matching.tables.packing import FUSED

GATED = "one half of its rows gates the other, and nothing says that both sides have them in one order"
MODULATED = "half of its rows are scales and half are shifts, and nothing says that both sides have them in one order"
SWAPPED = "the two names have the same words in another order, and its rows may be in another order, too"
# Words of so many letters may be letters for parts: `kq` and `qk`.
LETTERS = 4
# A layer and the one behind it lie in one module, or the layer in one more: `net.0.proj` and `net.2`.
DEPTHS = 2
# From so many times as many rows as columns on they are scales, shifts and gates, which all code has in the order of DiT.
SEVERAL = 3

# The matrices below each module, one or two segments deep, [out, in].
Inside = Mapping[str, Counter[Shape]]


def halves_in_unknown_order(finished: Finished) -> dict[str, str]:
    """Return the layers in doubt that make two halves, between two names, with their biases.

    Gated networks cut the output of one layer into what is activated and what it gates, adaptive norms into scale and shift.
    Which comes first is said by no shape, and names say it only where both sides have the same.
    """
    asked = [m for m in finished.matching.matches if _may_be_cut(m)]
    if not asked:
        return {}
    inside = _inside(finished.sides[0]), _inside(finished.sides[1])
    normed = [_normed(side) for side in finished.sides]
    said: dict[str, str] = {}
    for match in asked:
        ends = (match.source, match.target)
        if any(_modulates(leaf) for leaf in ends) and not all(map(_is_normed, ends, normed)):
            said[match.target.owner] = MODULATED
        elif all(map(_is_gated, ends, inside)):
            said[match.target.owner] = GATED
    return {m.target.name: said[m.target.owner] for m in finished.matching.matches if m.target.owner in said}


def parts_in_other_order(finished: Finished) -> dict[str, str]:
    """Return the layers in doubt whose two names have the same words in another order, with their biases.

    `mu_logvar` and `logvar_mu`, `up_gate` and `gate_up`: who turns the words round may turn the rows round.
    """
    swapped = {
        m.target.owner
        for m in finished.matching.matches
        if m.source.role in ("weight", "kernel") and len(m.source.shape) > 1 and m.target.kind != "Embedding"
        if not (m.source.part or m.target.part) and _are_swapped(m.source.owner, m.target.owner)
    }
    return {m.target.name: SWAPPED for m in finished.matching.matches if m.target.owner in swapped}


def _are_swapped(one: str, other: str) -> bool:
    """Return whether two last names have the same words, or one short word of the same letters, in another order."""
    ours, theirs = (path.rpartition(".")[2] for path in (one, other))
    if ours == theirs:
        return False
    said, wanted = ([word for word in words(name) if word not in ANY_PLACE] for name in (ours, theirs))
    if len(said) == len(wanted) == 1 and said[0].isalpha() and len(said[0]) <= LETTERS:
        said, wanted = list(said[0]), list(wanted[0])
    return said != wanted and sorted(said) == sorted(wanted)


def _may_be_cut(found: Match) -> bool:
    """Return whether a matrix with more rows than columns, an even number, goes over whole between two names."""
    source, target = found.source, found.target
    if not (_is_matrix(source) and _is_matrix(target)) or source.part or target.part:
        return False
    rows, columns = shape = _upright(source)
    may_be = rows % 2 == 0 and rows > columns and shape == _upright(target)
    return may_be and not _called_alike(source.owner, target.owner)


def _called_alike(one: str, other: str) -> bool:
    """Return whether two layers have one name; with the module around where it is but a number, or what any layer is called."""
    ours, theirs = _near(one), _near(other)
    both = words(ours[-1]), words(theirs[-1])
    if both[0] == both[1] and len(both[0]) == 1 and (both[0][0].isdecimal() or both[0][0] in ANY_LAYER):
        return ours == theirs
    return both[0] == both[1] or all(name in FUSED for name in both)


def _near(path: str) -> list[str]:
    """Return the last segments of a path, without what wraps a model."""
    return [name for name in path.split(".") if name not in WRAPPERS][-DEPTHS:] or [path]


def _is_matrix(leaf: Leaf) -> bool:
    return leaf.role in ("weight", "kernel") and len(leaf.shape) == 2


def _upright(leaf: Leaf) -> Shape:
    """Return the shape of a matrix as [out, in]."""
    return leaf.shape[::-1] if leaf.turned else leaf.shape


def _inside(leaves: Iterable[Leaf]) -> Inside:
    found: dict[str, Counter[Shape]] = {}
    for leaf in leaves:
        for path in _modules_of(leaf) if _is_matrix(leaf) else ():
            found.setdefault(path, Counter())[_upright(leaf)] += 1
    return found


def _modules_of(leaf: Leaf) -> Iterable[str]:
    """Return the nearest modules that a layer is in, the innermost first; the model itself is ""."""
    return islice(around(leaf.owner), 1, 1 + DEPTHS)


def _modulates(leaf: Leaf) -> bool:
    """Return whether names say that a layer makes scales and shifts for others, and its rows that they are two parts."""
    rows, columns = _upright(leaf)
    if rows % columns == 0 and rows // columns >= SEVERAL:
        return False
    near = _near(leaf.owner)
    return not MODULATING.isdisjoint(word for name in near for word in words(name)) or _is_norm(near)


def _is_norm(near: Sequence[str]) -> bool:
    """Return whether the layer lies in a norm: `norm1.linear`."""
    return len(near) == DEPTHS and "norm" in canonical(near[0])


def _normed(leaves: Iterable[Leaf]) -> set[tuple[str, int]]:
    """Return what norms normalise: the modules that hold them, and how many channels."""
    return {
        (parent, leaf.shape[0])
        for leaf in leaves
        if len(leaf.shape) == 1
        for parent, _, last in [leaf.owner.rpartition(".")]
        if "norm" in canonical(last)
    }


def _is_normed(leaf: Leaf, normed: Container[tuple[str, int]]) -> bool:
    """Return whether a norm beside a layer takes all of its rows: it stands behind it, as in LeViT, and gets no scale of it."""
    return (leaf.owner.rpartition(".")[0], _upright(leaf)[0]) in normed


def _is_gated(leaf: Leaf, inside: Inside) -> bool:
    """Return whether a layer beside takes half of the rows of a layer, and none takes all.

    Where half of the rows are as many as the columns, it may be one of keys and values instead.
    """
    rows, columns = _upright(leaf)
    if rows == 2 * columns:
        return False
    beside: Counter[Shape] = next(
        (found for path in _modules_of(leaf) if (found := inside[path]).total() > 1), Counter()
    )
    return beside[columns, rows // 2] > 0 and not any(taken == rows for _, taken in beside)
