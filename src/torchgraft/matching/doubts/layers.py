"""Rules of doubt that look at a single layer, and at the norm or the row of layers that it belongs to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise, permutations

from torchgraft.core.names import natural_key, words
from torchgraft.core.specs import Shape
from torchgraft.matching.doubts.found import Found
from torchgraft.matching.evidence.scores import STRANGE
from torchgraft.matching.judging.certainty import AROUND
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.attentions import disordered, is_numbered_norm, with_attentions
from torchgraft.matching.names.lists import is_one_path
from torchgraft.matching.names.words import canonical, terms, terms_differ
from torchgraft.matching.parts.units import BARE, Unit, shape_class
from torchgraft.matching.tables.dialect import AFTER, BEFORE, FACTOR, INVERSE, SQUARE, SUMMAND

_SHARES = frozenset({FACTOR, SUMMAND})

FOLDED = (
    "the file has a norm beside this layer that the model lacks; the model's bias may stand for it "
    "(fold_norms=True folds it in)"
)


def folded_norms(found: Found) -> Iterator[Pair]:
    """Yield layers beside a norm that only the file has, if only the model's has a bias.

    `conv` and `bn` to `conv` with a bias: without the norm's statistics the convolution computes something else.
    """
    spare = _parents_of_free_norms(found, 0)
    for pair, source, target in found.with_units() if spare else ():
        if _has_bias_alone(target, source) and source.parent in spare:
            yield pair


FUSED = (
    "the file's layer has a bias where the model has a norm that nothing fills: norms or branches are fused into it, as for "
    "deployment, and can't be taken out again; build the model in that form, or take a file from before"
)


def fused_norms(found: Found) -> Iterator[Pair]:
    """Yield layers beside a norm that only the model has, if only the file's has a bias: the reverse of `folded_norms`."""
    spare = _parents_of_free_norms(found, 1)
    for pair, source, target in found.with_units() if spare else ():
        if _has_bias_alone(source, target) and target.parent in spare:
            yield pair


def _parents_of_free_norms(found: Found, side: int) -> set[str]:
    """Return the parents of the norms with statistics of a side that found no partner."""
    return {unit.parent for unit in found.free[side] if "var" in unit.leaves}


def _has_bias_alone(one: Unit, other: Unit) -> bool:
    """Return whether of two units with weights the one has a bias, and the other hasn't."""
    return "weight" in one.leaves and "weight" in other.leaves and "bias" in one.leaves and "bias" not in other.leaves


OTHER_TERMS = (
    "one of the two names says that it holds a logarithm, an inverse, a deviation or a difference, or a shift and no scale, the "
    "other one's doesn't: values may differ in that"
)


def in_other_terms(found: Found) -> Iterator[Pair]:
    """Yield tensors whose names say that they hold different functions of a value: `log_std` to `std`.

    So do layers that give such a value, but for `inv` in their names: that may be an inverted, or an invertible one.
    """
    if not any(_terms(unit) - {SQUARE, FACTOR} for units in found.sides for unit in units):
        return
    for pair, source, target in found.with_units():
        if terms_differ(_terms(source), _terms(target)):
            yield pair


def _terms(unit: Unit) -> frozenset[str]:
    """Return what the names of a unit say that it holds; whether a factor or a summand, the unit's own before those of its tensors.

    A matrix is neither for being called weight or bias.
    """
    own, inside = terms(unit.last) - {INVERSE}, terms(*[leaf.role for leaf in unit.leaves.values()])
    if own & _SHARES or any(len(shape_class(leaf.shape)) > 1 for leaf in unit.leaves.values()):
        inside -= _SHARES
    return inside | own


SCALE = "one of the two names says that it scales what a layer gives, the other one that it is a norm's"


def scales_and_norms(found: Found) -> Iterator[Pair]:
    """Yield vectors of which one is a layer scale by its name, and the other a norm: `ls1.gamma` to `sub_norm.weight`."""
    for pair, *units in found.with_units(unnamed=True):
        ours, theirs = ({"ls", "norm"}.intersection(unit.words) for unit in units)
        if len(ours) == len(theirs) == 1 and ours != theirs:
            yield pair


UNORDERED = (
    "a number alone doesn't tell whose norm it is in a block with several attentions, nor does the order of the file, which "
    "may be sorted by name"
)


def norms_of_attentions(found: Found) -> Iterator[Pair]:
    """Yield norms of which a number on one side alone says to which attention of their block they belong.

    `norm1` to `self_attn_norm`, in a decoder that attends to its input before it attends to itself: that is the other's.
    """
    blocks = [with_attentions({unit.parent for unit in units}) for units in found.sides]
    if all(found.registered):
        sides = zip(blocks, found.sides, strict=True)
        blocks = [disordered(inside, [unit.path for unit in units]) if inside else inside for inside, units in sides]
    for pair, *units in found.with_units(unnamed=True) if any(blocks) else ():
        unclear = [
            unit.parent in inside and is_numbered_norm(unit.path) for unit, inside in zip(units, blocks, strict=True)
        ]
        if unclear[0] != unclear[1]:
            yield pair


CONTRARY = (
    "one of the two names says that it comes first in its block, or before a layer, the other one that it doesn't"
)


def against_their_words(found: Found) -> Iterator[Pair]:
    """Yield norms of which one is called the first by a word, and the other by a number or a word something else.

    `pre_norm` to `norm2`, in a model that registers that before `norm1`. Nor is `pre_ffn_norm` the `post_ffn_norm`.
    """
    for pair, *units in found.with_units(unnamed=True):
        if _are_before_and_behind(units[0].last, units[1].last):
            yield pair
            continue
        first = [_is_first_by_word(unit.last) for unit in units]
        if first[0] != first[1] and _is_later(units[first[0]].words):
            yield pair


@lru_cache(maxsize=1000)
def _is_first_by_word(last: str) -> bool:
    """Return whether the name of a norm says by a word that it is the first: `pre_norm`, `input_layernorm`."""
    return canonical(last) == ("norm", "@1") and not last[-1].isdecimal()


@lru_cache(maxsize=1000)
def _are_before_and_behind(one: str, other: str) -> bool:
    """Return whether two names are one but for a word, which says before a layer of one, and behind it of the other."""
    ours, theirs = words(one), words(other)
    apart = [{a, b} for a, b in zip(ours, theirs, strict=False) if a != b]
    return len(ours) == len(theirs) and len(apart) == 1 and bool(apart[0] & BEFORE and apart[0] & AFTER)


def _is_later(words: tuple[str, ...]) -> bool:
    """Return whether the words end in a norm with a number other than the first, or behind something."""
    return words[-2:-1] == ("norm",) and words[-1][:1] == "@" and words[-1] not in ("@0", "@1")


PASSING = "its number is another one there, and it would pass layers that keep their names"


def passing_named_layers(found: Found) -> Iterator[Pair]:
    """Yield layers that go to another number, past others of the same module that go by their names: `bn2_new` to `bn1_new`.

    Where a side doesn't come as registered, what its names count stands in their order.
    """
    kept: dict[tuple[str, str], list[tuple[Unit, Unit]]] = defaultdict(list)
    for pair, source, target in found.with_units():
        if pair.named:
            kept[source.parent, target.parent].append((source, target))
    for pair, *units in found.with_units(unnamed=True):
        ours, theirs = ([word for word in words(unit.last) if word.isdecimal()] for unit in units)
        beside = kept.get((units[0].parent, units[1].parent), ()) if ours and theirs and ours != theirs else ()
        for others in beside:
            behind = [
                _stands_behind(one, other, registered=registered)
                for one, other, registered in zip(units, others, found.registered, strict=True)
            ]
            if None not in behind and behind[0] != behind[1]:
                yield pair
                break


def _stands_behind(one: Unit, other: Unit, *, registered: bool) -> bool | None:
    """Return whether a layer stands behind another one of its module; None where nothing says it."""
    if registered:
        return one.order > other.order
    counted = words(one.last)[:1] == words(other.last)[:1] and other.last[-1].isdecimal()
    return natural_key(one.last) > natural_key(other.last) if counted else None


CROSSWISE = (
    "its kernel fits there alone, but convolutions of this block would change places, and no word of their names says "
    "so"
)


def kernels_crosswise(found: Found) -> Iterator[Pair]:
    """Yield convolutions of one block that change places for their kernels, where each could run in the place of the other.

    `expand` of 3x3 and `project` of 1x1 to `first` of 1x1 and `second` of 3x3: layers of another network, as like as not.
    A shortcut that only some blocks have is told by the others.
    """
    blocks: dict[tuple[str, str], list[tuple[Pair, Shape, tuple[str, str]]]] = {}
    for pair, source, target in found.with_units(unnamed=True) if all(found.registered) else ():
        kernel = target.leaves["weight"].shape if "weight" in target.leaves else ()
        if pair.name < STRANGE and len(kernel) > 2:
            inside = source.block or source.parent, target.block or target.parent
            blocks.setdefault(inside, []).append((pair, kernel, (source.tail, target.tail)))
    often = Counter(tails for members in blocks.values() for *_, tails in members)
    for members in blocks.values():
        ends = sorted((pair.source, pair.target) for pair, *_ in members)
        if all(one[1] < following[1] for one, following in pairwise(ends)):
            continue
        for (pair, kernel, tails), (other, beside, others) in permutations(members, 2):
            crossed = (pair.source < other.source) != (pair.target < other.target)
            fits_there = kernel[0] == beside[0] and (kernel[1] == beside[1] or 1 in {kernel[1], beside[1]})
            if crossed and fits_there and often[tails] == often[others]:
                yield pair


ONE_OF_SEVERAL = "it is one layer on one side and several in a row on the other, of which any, or none, may be meant"


def one_of_several(found: Found) -> Iterator[Pair]:
    """Yield a single layer paired with a member of a row of its name of which another member stays free.

    `fc` to `fc.0`, with `fc.1` left over. So does a row of one layer beside a longer one of its name, where the blocks don't
    agree otherwise.
    """
    ours, theirs = map(_open_rows, found.free)
    if not (ours or theirs):
        return
    sizes = [Counter(unit.parent for unit in units) for units in found.sides]
    for pair, source, target in found.with_units():
        if _is_called_like_row(source, target, theirs) or _is_called_like_row(target, source, ours):
            yield pair
        elif not pair.named and pair.block <= AROUND and source.last.isdecimal() and target.last.isdecimal():
            alone = sizes[0][source.parent] == 1, sizes[1][target.parent] == 1
            grew = (alone[0] and target.parent in theirs) or (alone[1] and source.parent in ours)
            if grew and is_one_path(source.parent, target.parent):
                yield pair


def _open_rows(free: Iterable[Unit]) -> set[str]:
    """Return the numbered rows with a member that found no partner."""
    return {unit.parent for unit in free if unit.last.isdecimal()}


def _is_called_like_row(one: Unit, other: Unit, rows: set[str]) -> bool:
    """Return whether the other is a member of one of the rows, and the row is called like the one."""
    if other.parent not in rows or not other.last.isdecimal():
        return False
    own = [] if BARE in one.leaves else [leaf.keys[0].rpartition(".")[0] for leaf in one.leaves.values()]
    return any(_is_called_alike(other.parent, path) for path in (one.path, *own))


def _is_called_alike(row: str, path: str) -> bool:
    """Return whether a row and a layer have one path but for what stands before it, or at least one name."""
    name = path.rpartition(".")[2]
    return is_one_path(row, path) or (row.rpartition(".")[2] == name and not name.isdecimal())
