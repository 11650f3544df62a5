"""Rules of doubt that look at a single layer, and at what stays free beside it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from torchgraft.core.names import words
from torchgraft.matching.doubts.found import Found
from torchgraft.matching.judging.certainty import SAME
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.attentions import disordered, is_numbered_norm, with_attentions
from torchgraft.matching.names.lists import is_one_path
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import BARE, Unit, kind_of
from torchgraft.matching.tables.dialect import IN_OTHER_TERMS

FOLDED = "the file has a norm beside this layer that the model lacks; the model's bias may stand for it (fold_norms= folds it in)"


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
    "deployment, and can't be taken out again"
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


OTHER_TERMS = "one of the two names says that it holds a logarithm or an inverse, the other one's doesn't: values may differ in that"


def in_other_terms(found: Found) -> Iterator[Pair]:
    """Yield tensors whose names say that they hold different functions of a value: `log_std` to `std`."""
    roles = {leaf.role for units in found.sides for unit in units for leaf in unit.leaves.values()}
    for pair, source, target in found.with_units() if any(map(_terms, roles)) else ():
        ours, theirs = ([leaf.role for leaf in unit.leaves.values()] for unit in (source, target))
        if ours != theirs and _terms(*ours) != _terms(*theirs):
            yield pair


@lru_cache
def _terms(*roles: str) -> frozenset[str]:
    return IN_OTHER_TERMS.intersection(word for role in roles for word in words(role))


UNORDERED = (
    "a number alone doesn't tell whose norm it is in a block with several attentions, nor does the order of the file, which "
    "may be sorted by name"
)


def norms_of_attentions(found: Found) -> Iterator[Pair]:
    """Yield norms of which a number on one side alone says to which attention of their block they belong.

    `norm1` to `self_attn_norm`, in a decoder that attends to its input before it attends to itself: that is the other's.
    """
    blocks = [with_attentions({unit.parent for unit in units}) for units in found.sides]
    if not found.unordered:
        sides = zip(blocks, found.sides, strict=True)
        blocks = [disordered(inside, [unit.path for unit in units]) if inside else inside for inside, units in sides]
    for pair, *units in found.with_units(unnamed=True) if any(blocks) else ():
        unclear = [
            unit.parent in inside and is_numbered_norm(unit.path) for unit, inside in zip(units, blocks, strict=True)
        ]
        if unclear[0] != unclear[1]:
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
        elif not pair.named and pair.block <= 0.5 and source.last.isdecimal() and target.last.isdecimal():
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


TWINS = "a part of the same build stays free beside it, and neither name says which of the two it is"


def beside_free_twins(found: Found) -> Iterator[Pair]:
    """Yield units beside a free one of the same build, where only names could say which is meant, and don't.

    `vision.layers.0.fc` to `encoder.layers.0.fc`, with `text.layers.0.fc` left over in the file.
    """
    free = [_by_place(units) for units in found.free]
    for pair, source, target in found.with_units(unnamed=True) if any(free) else ():
        if pair.name < SAME and (_has_twin(source, target, free[0]) or _has_twin(target, source, free[1])):
            yield pair


NAMESAKE = "a layer of its very name stays free on the other side, and this one is called otherwise"


def beside_free_namesakes(found: Found) -> Iterator[Pair]:
    """Yield units outside of all lists of which one is called as something that stays free on the other side.

    `cls` to `aux_cls`, with `heads.cls` left over: the added one may have all shapes of the old one.
    """
    names = [
        {name for unit in units if not unit.blocks for name in unit.path.split(".") if not name.isdecimal()}
        for units in found.free
    ]
    for pair, *units in found.with_units(unnamed=True) if any(names) else ():
        if units[0].blocks or units[1].blocks:
            continue
        for side in (0, 1):
            own = units[side].last
            if own in names[1 - side] and own not in units[1 - side].path.split("."):
                yield pair


MORE = "a layer of the same shapes stays free beside it, and one of the two names says more than the other, as those of added parts do"


def called_with_more_words(found: Found) -> Iterator[Pair]:
    """Yield layers outside of all lists of which one has the other's name and more words, beside a free one of its build.

    `fc` to `fc_aux`, where the model's `classifier` stays free: an added head may have the name of the old one in its own.
    """
    free = [{(unit.parent, kind_of(unit)) for unit in units if not unit.blocks} for units in found.free]
    for pair, *units in found.with_units(unnamed=True) if any(free) else ():
        for side in (0, 1):
            own, other = units[side], units[1 - side]
            more = set(canonical(own.last)) > set(canonical(other.last))
            if more and not own.blocks and (own.parent, kind_of(own)) in free[side]:
                yield pair


LOST = "nearly all else of the part of the network that it would lie in stays free, and the rest of the file goes elsewhere"
# A part of a network has so many layers; where no more than this share of it is paired, that may be chance.
PART, STRAY = 8, 0.125


def lost_in_other_parts(found: Found) -> Iterator[Pair]:
    """Yield the few units that would go into, or come from, a part of which the rest stays free, under another name.

    The pooler of a vision transformer fits, by name and shape, in the text encoder beside it.
    """
    pairs = [(pair, found.units_of(pair)) for pair in found.held]
    for side in (0, 1) if pairs and any(found.free) else ():
        parts = _parts(found.sides[side])
        sizes, met = Counter(parts.values()), Counter(parts[units[side].path] for _, units in pairs)
        few = {part for part, count in met.items() if count <= STRAY * sizes[part] and 2 * count < len(pairs)}
        for pair, units in pairs if few else ():
            part = parts[units[side].path]
            if part in few and sizes[part] >= PART and part not in units[1 - side].path.split("."):
                yield pair


def _parts(units: Sequence[Unit]) -> dict[str, str]:
    """Return the part of the network that each unit lies in: the first segment in which the paths of a side differ."""
    paths = [unit.path.split(".") for unit in units]
    first, last = min(paths), max(paths)
    at = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), 0)
    return {".".join(path): path[at] if at < len(path) else "" for path in paths}


# A path with one of its segments set aside, and which one.
Place = tuple[int, tuple[str, ...]]


def _has_twin(own: Unit, other: Unit, free: Mapping[Place, Sequence[Unit]]) -> bool:
    """Return whether a twin of the first of a pair is free, and the other's name has not the word that only the first has."""
    twins = (
        own.path.split(".")[at]
        for at, place in _places(own.path)
        for twin in free.get((at, place), ())
        if twin.path != own.path and kind_of(twin) == kind_of(own)
    )
    return any(not {*canonical(other.path)}.issuperset(canonical(word)) for word in twins)


def _by_place(units: Iterable[Unit]) -> Mapping[Place, list[Unit]]:
    places: dict[Place, list[Unit]] = defaultdict(list)
    for unit in units:
        for place in _places(unit.path):
            places[place].append(unit)
    return places


def _places(path: str) -> Iterator[Place]:
    """Yield the places of a unit with one of the names of modules around it set aside; numbers say something else."""
    parts = tuple(path.split("."))
    for at, part in enumerate(parts[:-1]):
        if not part.isdecimal():
            yield at, (*parts[:at], *parts[at + 1 :])
