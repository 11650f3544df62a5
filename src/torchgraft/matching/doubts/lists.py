"""Rules of doubt that look at numbered lists: their members, their blocks, and which list is which."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product

from torchgraft.core.names import ends
from torchgraft.matching.doubts.found import Found
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.lists import ListName, is_one_path, list_of, number_of, place_of, stem
from torchgraft.matching.parts.units import Unit, around_several, blocks_of, kind_of
from torchgraft.matching.solving.reversed import undirected

# What the units of a block are: the path of each inside of it, its roles and shapes.
Build = tuple[tuple[str, object], ...]

FREE_ELSEWHERE = "it fits here, but what corresponds to it in most other blocks finds no partner"


def free_in_other_blocks(found: Found) -> Iterator[Pair]:
    """Yield units whose like stays free in most blocks of the list in which others are paired.

    An adapter that was added to all layers has nothing in the file, also where one has the shapes of something else.
    """
    outnumbered = [_free_elsewhere(found, side) for side in (0, 1)]
    for pair in found.pairs if any(outnumbered) else ():
        if not pair.named and (pair.source in outnumbered[0] or pair.target in outnumbered[1]):
            yield pair


def _free_elsewhere(found: Found, side: int) -> set[int]:
    """Return the paired units of one side whose like is free in more blocks than it is paired."""
    left, used, units = found.free[side], found.paired[side], found.sides[side]
    blocks = {units[at].block for at in used} if left else set()
    free = Counter([_place_in_block(unit) for unit in left if unit.block in blocks])
    if not free:
        return set()
    places = {at: _place_in_block(units[at]) for at in used if units[at].block}
    fed = Counter(places.values())
    return {at for at, place in places.items() if free[place] > fed[place]}


def _place_in_block(unit: Unit) -> tuple[str, str]:
    return place_of(unit.block), unit.tail


TORN = "by name or shape, parts of one block would go to several blocks of one list"


def torn_blocks(found: Found) -> Iterator[Pair]:
    """Yield units in blocks of which parts go to, or come from, the same parts of several members of one list.

    Where shapes send a convolution to the block beside, the norms that fit in both by name belong there, too.
    """
    met: dict[tuple[str, str], list[int]] = defaultdict(list)
    for pair in found.held:
        source, target = found.units_of(pair)
        if source.tail == target.tail and source.block and target.block:
            met[source.block, target.block].append(pair.target)
    goes: dict[tuple[str, ListName, int], list[list[int]]] = defaultdict(list)
    for (ours, theirs), held in met.items():
        goes[ours, list_of(theirs), 0].append(held)
        goes[theirs, list_of(ours), 1].append(held)
    torn = {at for several in goes.values() if len(several) > 1 for held in several for at in held}
    return (pair for pair in found.pairs if pair.target in torn) if torn else iter(())


COUNTED = "one side counts this list from another number than the other, and the lists differ in length"


def counted_otherwise(found: Found) -> Iterator[Pair]:
    """Yield units in lists of one name that the sides count from different numbers and that differ in length.

    `layers.1` to `layers.9` beside `layers.0` to `layers.5`: numbers say nothing there. A list of one member counts, too, if
    that is a block: where the other side has more, its number may mean another.
    """
    inner = [_innermost_blocks(units) for units in found.sides]
    spans = [_spans(blocks.values(), units) for blocks, units in zip(inner, found.sides, strict=True)]
    if len({first for side in spans for first, _ in side.values()}) < 2:
        return
    for pair, source, target in found.with_units():
        blocks = inner[0][source.parent], inner[1][target.parent]
        if all(blocks):
            ours, theirs = map(list_of, blocks)
            first, second = spans[0][ours], spans[1][theirs]
            if first[0] != second[0] and first[1] != second[1] and is_one_path(".".join(ours), ".".join(theirs)):
                yield pair


def _innermost_blocks(units: Sequence[Unit]) -> dict[str, str]:
    """Return for each module that holds units the innermost block around them, alone in its list or not, "" without one."""
    shared = around_several(Counter([unit.parent for unit in units]))
    known: dict[str, str] = {"": ""}

    def numbered(path: str) -> str:
        block = known.get(path)
        if block is None:
            parent, _, last = path.rpartition(".")
            block = known[path] = path if last.isdecimal() and path in shared else numbered(parent)
        return block

    return {
        parent: max(block, numbered(parent), key=len) for parent, block in {u.parent: u.block for u in units}.items()
    }


def _spans(blocks: Iterable[str], units: Iterable[Unit]) -> dict[ListName, tuple[int, int]]:
    """Return the first number and the length of each list that one of the blocks, or of those around units, is in."""
    numbers: dict[ListName, set[int]] = defaultdict(set)
    for block in {*filter(None, blocks)} | blocks_of(units):
        numbers[list_of(block)].add(number_of(block))
    return {row: (min(held), len(held)) for row, held in numbers.items()}


def behind_replaced_blocks(found: Found) -> Iterator[Pair]:
    """Yield units in blocks behind one that is of another build on the two sides, and left over on both.

    What was put in there may have moved the blocks behind it by one: of these, those are told of whose build is that of
    a block that stays free.
    """
    used = {pair.source for pair in found.pairs if pair.fits}, {pair.target for pair in found.pairs if pair.fits}
    free = [_free_blocks(units, paired) for units, paired in zip(found.sides, used, strict=True)]
    if not all(free):
        return
    held = [_members(units) for units in found.sides]
    builds = [
        {block: _build(block, inside, units) for block, inside in blocks.items()}
        for blocks, units in zip(held, found.sides, strict=True)
    ]
    replaced: dict[tuple[ListName, ListName], list[tuple[int, tuple[Build, Build]]]] = {}
    for pair in found.held:
        source, target = found.units_of(pair)
        for ours, theirs in zip(source.blocks, target.blocks, strict=False):
            rows = list_of(ours), list_of(theirs)
            if rows not in replaced:
                replaced[rows] = _replaced(rows, free, builds)
            own = builds[0][ours], builds[1][theirs]
            behind = min(number_of(ours), number_of(theirs))
            if any(at < behind and (own[0] == old or own[1] == new) for at, (old, new) in replaced[rows]):
                yield pair
                break


def _free_blocks(units: Sequence[Unit], paired: Container[int]) -> set[str]:
    """Return the blocks of which no unit is paired."""
    free = blocks_of([unit for at, unit in enumerate(units) if at not in paired])
    return free - blocks_of([unit for at, unit in enumerate(units) if at in paired]) if free else free


def _replaced(
    rows: tuple[ListName, ListName], free: Sequence[set[str]], builds: Sequence[Mapping[str, Build]]
) -> list[tuple[int, tuple[Build, Build]]]:
    """Return numbers at which two lists of one name both have a free block, with other names inside, and both builds."""
    if not is_one_path(".".join(rows[0]), ".".join(rows[1])):
        return []
    ours, theirs = (
        {number_of(block): builds[side][block] for block in free[side] if list_of(block) == rows[side]}
        for side in (0, 1)
    )
    both = [(at, (ours[at], theirs[at])) for at in ours.keys() & theirs.keys()]
    return [(at, builds) for at, builds in both if dict(builds[0]).keys() != dict(builds[1]).keys()]


def _members(units: Sequence[Unit]) -> dict[str, list[int]]:
    """Return the units of each block."""
    members: dict[str, list[int]] = defaultdict(list)
    for at, unit in enumerate(units):
        for block in unit.blocks:
            members[block].append(at)
    return members


def _build(block: str, inside: Iterable[int], units: Sequence[Unit]) -> Build:
    return tuple(sorted((units[at].path[len(block) :], kind_of(units[at])) for at in inside))


OTHER_LIST = "it would go from one list into another, and both sides have both lists"


def into_other_lists(found: Found) -> Iterator[Pair]:
    """Yield units of blocks that would go from one list into another, of which both sides have both.

    `encoder.layers.2` to `decoder.layers.0`.
    """
    both = _lists_of_both(found)
    if all(is_one_path(ours, theirs) for ours, theirs in product(*both)):
        return

    @cache
    def differ(ours: str, theirs: str) -> bool:
        rows = _place(ours), _place(theirs)
        return rows[0] in both[0] and rows[1] in both[1] and not is_one_path(*rows)

    left: dict[tuple[tuple[str, ...], tuple[str, ...]], bool] = {}
    for pair, source, target in found.with_units(unnamed=True):
        blocks = source.blocks, target.blocks
        if blocks not in left:  # the units of a block come one after the other
            left[blocks] = len(blocks[0]) == len(blocks[1]) and any(map(differ, *blocks))
        if left[blocks]:
            yield pair


def _place(block: str) -> str:
    """Return the path of a list with numbers set aside."""
    return place_of(".".join(list_of(block)))


def _lists_of_both(found: Found) -> list[set[str]]:
    """Return the places of the lists of either side that are one path with some of the other's."""
    places = [_all_lists(units) for units in found.sides]
    behind = [{end for place in side for end in ends(place)} for side in places]
    return [
        {place for place in side if place in others or not there.isdisjoint(ends(place))}
        for side, there, others in zip(places, places[::-1], behind[::-1], strict=True)
    ]


def _all_lists(units: Iterable[Unit]) -> set[str]:
    """Return the places of all lists, of one member, too."""
    lists: set[ListName] = set()
    known = {""}
    for parent in {unit.parent for unit in units}:
        path = parent
        while path not in known:
            known.add(path)
            if stem(path.rpartition(".")[2]) is not None:
                lists.add(list_of(path))
            path = path.rpartition(".")[0]
    return {place_of(".".join(row)) for row in lists}


REARRANGED = "a layer of this list has changed its place, and nothing tells which of those of the same shapes it passed"


def rearranged(found: Found) -> Iterator[Pair]:
    """Yield layers that have rivals, in lists of layers in which one would change its place among the others."""
    lists = {
        (found.sources[pair.source].parent, found.targets[pair.target].parent)
        for pair in found.held
        if not (pair.in_order or pair.named) and _are_in_one_list(pair, found)
    }
    for pair, source, target in found.with_units(unnamed=True) if lists else ():
        if not pair.told_apart and (source.parent, target.parent) in lists and _are_in_one_list(pair, found):
            yield pair


def _are_in_one_list(pair: Pair, found: Found) -> bool:
    """Return whether two layers are members of lists of one name."""
    source, target = found.units_of(pair)
    return source.last.isdecimal() and target.last.isdecimal() and is_one_path(source.parent, target.parent)


EITHER_END = (
    "decoders and pyramids are counted from either end, and neither shapes nor names say from which both sides count"
)


def counted_from_either_end(found: Found) -> Iterator[Pair]:
    """Yield units in lists of decoders and pyramids whose direction nothing tells: `up.0` may be `up_blocks.3`."""
    ends = undirected([(pair.source, pair.target) for pair in found.held], *found.sides)
    for pair, source, target in found.with_units() if ends else ():
        if pair.target in ends and not (pair.named and is_one_path(source.path, target.path)):
            yield pair
