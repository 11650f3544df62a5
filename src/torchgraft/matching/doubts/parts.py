"""Rules of doubt that look at the parts of a network: towers, branches and heads, of which another one may be meant."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from torchgraft.core.names import words
from torchgraft.matching.doubts.found import Found
from torchgraft.matching.evidence.order import sequences_of
from torchgraft.matching.judging.certainty import SAME
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.towers import Towers
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import Unit, blocks_of, kind_of
from torchgraft.matching.tables.dialect import OTHER_NORMS

OTHER_TOWER = "by name it belongs to another part of the network"


def into_other_towers(found: Found) -> Iterator[Pair]:
    """Yield units that would go from one of two parts that lie side by side into the other, where both sides have both.

    What the file has in `student.blocks` is for `student.layers`, even where it has as many blocks as `teacher.layers`. The
    same holds of an encoder that would become a decoder, whatever else there is.
    """
    towers = Towers(*([unit.parent for unit in side] for side in found.sides))
    for pair, source, target in found.with_units():
        if source.parent != target.parent and towers.change(source.parent, target.parent):
            yield pair


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


MORE = (
    "a layer of the same shapes stays free beside it, and one of the two names says more than the other, as those of added "
    "parts do"
)


def called_with_more_words(found: Found) -> Iterator[Pair]:
    """Yield layers of which one has the other's name and more words, beside a free one of its build.

    `fc` to `fc_aux`, where the model's `classifier` stays free: an added head may have the name of the old one in its own.
    """
    free = [{(unit.parent, kind_of(unit)) for unit in units} for units in found.free]
    for pair, *units in found.with_units(unnamed=True) if any(free) else ():
        for side in (0, 1):
            own, other = units[side], units[1 - side]
            more = set(canonical(own.last)) > set(canonical(other.last))
            if more and (own.parent, kind_of(own)) in free[side]:
                yield pair


NEW = "one of the two names says that it is new, and is the other one otherwise"


def called_new(found: Found) -> Iterator[Pair]:
    """Yield layers of which one is called as the other, and new: `fc` to `new_fc`, which was added to be trained."""
    for pair, *units in found.with_units(unnamed=True):
        ours, theirs = (set(words(unit.last)) for unit in units)
        if ours ^ theirs == {"new"}:
            yield pair


OTHER_NORM = "one of the two is a last norm, and the other has the name of one before all blocks, or behind a pool"


def other_norms(found: Found) -> Iterator[Pair]:
    """Yield last norms that would go into, or come from, one whose name says that it stands elsewhere: `norm` to `fc_norm`."""
    elsewhere = [
        (pair, side)
        for pair, *units in found.with_units(unnamed=True)
        for side in (0, 1)
        if "norm" in units[side].words and not OTHER_NORMS.isdisjoint(units[1 - side].words)
    ]
    orders = sequences_of(*found.sides, found.registered) if elsewhere else ()
    for pair, side in elsewhere:
        at = (pair.source, pair.target)[side]
        if orders[side].end_norm(at) > 0 and _lies_beside_lists(found.sides[side], at):
            yield pair


def _lies_beside_lists(units: Sequence[Unit], at: int) -> bool:
    around = units[at].parent
    return not around or any(f"{block.rpartition('.')[0]}.".startswith(f"{around}.") for block in blocks_of(units))


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
    return {".".join(path): path[at] for path in paths}


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
