"""Rules of doubt that look at numbered lists: their members, their blocks, and which list is which."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache

from torchgraft.core.names import above, without_common_end
from torchgraft.matching.doubts.changed import builds_of
from torchgraft.matching.doubts.found import Found
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.lists import ListName, is_one_path, list_of, member_of, numbered, place_of, stem
from torchgraft.matching.parts.units import Unit, around_several, blocks_of, kind_of
from torchgraft.matching.solving.reversed import undirected

ELSEWHERE = "it fits here, but what corresponds to it in most other blocks finds no partner, or has one elsewhere"

# Where a unit stands in the blocks of a list: the place of these, and the path within.
InBlock = tuple[str, str]


def otherwise_in_other_blocks(found: Found) -> Iterator[Pair]:
    """Yield units whose counterparts in most other blocks of the list are unmatched, or are paired with another list.

    An adapter that was added to all layers has nothing in the file, even if one of them has the shapes of something there; and
    the last norm of a network may have those of the first norm in an added block. It is no reason for doubt that a whole
    list goes into another one, or that the last unit of an otherwise paired block comes from outside of all lists.
    """
    odd = {pair.target for side in (0, 1) for pair in _odd_ones(found, side)} if any(found.free) else ()
    return (pair for pair in found.pairs if pair.target in odd) if odd else iter(())


def _odd_ones(found: Found, side: int) -> Iterator[Pair]:
    """Yield pairs of which the end on one side is paired otherwise in most blocks."""
    ends = [(pair, found.units_of(pair)) for pair in found.held]
    met = [(pair, units[side], units[1 - side]) for pair, units in ends if units[side].block]
    goes: dict[InBlock, Counter[str]] = defaultdict(Counter)
    for _, own, other in met:
        goes[_place_in_block(own)][_around(place_of(own.path), place_of(other.path))] += 1
    comes = Counter([_place_in_block(other) for _, _, other in met])
    left = Counter(map(_place_in_block, found.free[1 - side]))
    gaps = {unit.block for unit in found.free[side]}
    blocks = gaps & {found.sides[side][at].block for at in found.paired[side]}
    free = Counter([_place_in_block(unit) for unit in found.free[side] if unit.block in blocks])
    for pair, own, other in met:
        place, there = _place_in_block(own), _place_in_block(other)
        (usual, most), fed = goes[place].most_common(1)[0], goes[place].total()
        spare = left[there] >= comes[there] if other.block else own.block in gaps
        elsewhere = spare and 2 * most > fed and _around(place_of(own.path), place_of(other.path)) != usual
        if not pair.named and (elsewhere or free[place] > fed):
            yield pair


@lru_cache(maxsize=20_000)
def _around(place: str, other: str) -> str:
    """Return what stands in the second of two places before the end that both have."""
    return without_common_end(place, other)[1]


def _place_in_block(unit: Unit) -> InBlock:
    return place_of(unit.block), unit.tail


COUNTED = "the sides count this list from different numbers, and it is longer on one of them, or a part of a longer one"


def counted_otherwise(found: Found) -> Iterator[Pair]:
    """Yield units in lists that the sides count from different numbers and that differ in length, or begin with neither 0 nor 1.

    `layers.4` to `layers.7` beside `layers.8` to `layers.11` may be two stages of one pipeline. `layers.1` to `layers.9`
    beside `layers.0` to `layers.5`: numbers say nothing there. A list of one member counts, too, if that is a block: where the
    other side has more, its number may mean another. Lists of other names may differ in more than a number; but where all
    members of both are of one build, nothing else tells them apart. Of as many blocks, one list may have layers in front or
    behind, in one row with them.
    """
    inner = [_innermost_blocks(units) | _even_rows(units) for units in found.sides]
    spans = [_spans(blocks.values(), units) for blocks, units in zip(inner, found.sides, strict=True)]
    if len({first for side in spans for first, _ in side.values()}) < 2:
        return
    even = [even_lists(units) for units in found.sides]
    large = [_of_several_layers(units) for units in found.sides]
    for pair, source, target in found.with_units():
        around = [(_block_in(source, inner[0]), _block_in(target, inner[1]))]
        if len(source.blocks) == len(target.blocks):
            around += zip(source.blocks, target.blocks, strict=True)
        for blocks in around:
            if not all(blocks) or _depth(blocks[0]) != _depth(blocks[1]):
                continue  # two attentions in each layer are no layers
            ours, theirs = map(list_of, blocks)
            first, second = spans[0][ours], spans[1][theirs]
            alike = (ours in even[0] and theirs in even[1]) or is_one_path(".".join(ours), ".".join(theirs))
            as_many = first[1] == second[1] or large[0][ours] == large[1][theirs] > 1
            as_usual = as_many and max(first[0], second[0]) <= 1
            if first[0] != second[0] and alike and not as_usual:
                yield pair
                break


CALLED = (
    "both sides have this number, and leave out others between: it may be a name, and no place in a row, and then it would go "
    "to its own"
)


def called_by_numbers(found: Found) -> Iterator[Pair]:
    """Yield members of rows that go to another number, where numbers may be names: strides 8, 16 and 32 to 16, 32 and 64."""
    moved = [
        (pair, rows)
        for pair, source, target in found.with_units(unnamed=True)
        for (ours, number, _), (theirs, there, _) in zip(
            *(numbered(unit.path)[::-1] for unit in (source, target)), strict=False
        )
        if number != there and is_one_path(*(rows := (ours, theirs)))
    ]
    members = [_members(units) for units in found.sides] if moved else []

    @cache
    def may_be_names(ours: str, theirs: str) -> bool:
        first, second = members[0][ours], members[1][theirs]
        gaps = all(1 < len(row) <= max(row) - min(row) for row in (first, second))
        return gaps and min(first) != min(second) and any(second.get(at) == held for at, held in first.items())

    return (pair for pair, rows in moved if may_be_names(*rows))


def _members(units: Iterable[Unit]) -> Mapping[str, Mapping[int, set[object]]]:
    """Return what the members of each row of numbers are built of, by number."""
    rows: dict[str, dict[int, set[object]]] = defaultdict(lambda: defaultdict(set))
    for unit in units:
        for row, number, inside in numbered(unit.path):
            rows[row][number].add((inside, kind_of(unit)))
    return rows


def _depth(block: str) -> int:
    """Return in how many lists a member of one stands, with its own."""
    return sum(stem(part) is not None for part in block.split("."))


def is_by_other_number(source: Unit, target: Unit, even: Sequence[Container[ListName]]) -> bool:
    """Return whether a member of an `even` list, all of one build, goes to another number of a list of its name.

    `blocks.1` to `blocks.0`: nothing but the count says that these are no layers of their own numbers.
    """
    return any(
        member_of(ours)[1] != member_of(theirs)[1]
        and list_of(ours) in even[0]
        and list_of(theirs) in even[1]
        and is_one_path(*(".".join(list_of(block)) for block in (ours, theirs)))
        for ours, theirs in zip(source.blocks[::-1], target.blocks[::-1], strict=False)
    )


def even_lists(units: Iterable[Unit]) -> set[ListName]:
    """Return the lists of two or more blocks that are all of one build."""
    builds = builds_of(units)
    return {row for row, members in builds.items() if len(members) > 1 and len(set(members.values())) == 1}


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


def _even_rows(units: Iterable[Unit]) -> dict[str, str]:
    """Return the members of lists of layers without a gap, all with the same tensors, such as a norm behind each layer."""
    rows: dict[str, dict[int, Unit]] = defaultdict(dict)
    for unit in units:
        if unit.last.isdecimal():
            rows[unit.parent][int(unit.last)] = unit
    even = (
        row.values() for row in rows.values()
        if 1 < len(row) == max(row) - min(row) + 1 and len({frozenset(unit.leaves) for unit in row.values()}) == 1
    )  # fmt: skip
    return {unit.path: unit.path for row in even for unit in row}


def _block_in(unit: Unit, inner: Mapping[str, str]) -> str:
    """Return the innermost member of a list that a unit is, or lies in."""
    return inner.get(unit.path) or inner[unit.parent]


def _spans(blocks: Iterable[str], units: Iterable[Unit]) -> dict[ListName, tuple[int, int]]:
    """Return the first number and the length of each list that one of the blocks, or of those around units, is in."""
    numbers: dict[ListName, set[int]] = defaultdict(set)
    for block in {*filter(None, blocks)} | blocks_of(units):
        row, number = member_of(block)
        numbers[row].add(number)
    return {row: (min(held), len(held)) for row, held in numbers.items()}


def _of_several_layers(units: Iterable[Unit]) -> Counter[ListName]:
    """Return how many members of each list hold several layers: others stand in front of the blocks or behind, in one row."""
    inside = Counter(path for unit in units for path in above(unit.path))
    return Counter(list_of(path) for path, count in inside.items() if count > 1 and path.rpartition(".")[2].isdecimal())


def _place(block: str) -> str:
    """Return the path of a list with numbers set aside."""
    return place_of(".".join(list_of(block)))


LENGTHENED = "one list would go on with members of another, and both sides have the one by its name"


def lengthened_by_other_lists(found: Found) -> Iterator[Pair]:
    """Yield units that would lengthen a list of the other side whose members are paired with a list of its own name.

    `decoder_blocks.0` as `blocks.2`, behind the `blocks.1` of both sides: blocks were added there, and these are others.
    """
    own: tuple[set[ListName], set[ListName]] = set(), set()
    moved: list[tuple[Pair, ListName, ListName]] = []
    for pair in found.held:
        source, target = found.units_of(pair)
        around = list(zip(source.blocks, target.blocks, strict=False))
        if around:
            blocks = around[-1]  # of as many lists on both sides: `fc1` may be `net.0.proj` in the same block
            ours, theirs = map(list_of, blocks)
            if ours[1] or theirs[1]:
                continue  # `conv1` and `conv2` of a block are layers of it, and no list that could go on
            if not is_one_path(*map(_place, blocks)):
                moved.append((pair, ours, theirs))
            elif pair.named and pair.source not in found.ruled:
                own[0].add(ours)
                own[1].add(theirs)
    return (pair for pair, ours, theirs in moved if not pair.named and (ours in own[0] or theirs in own[1]))


LEAVES = "it would leave its block for another one of the list, and the rest of both blocks goes elsewhere"


def leaving_their_blocks(found: Found) -> Iterator[Pair]:
    """Yield single units that would go from one block of a list to another, where either block has its own counterpart.

    What two blocks or more have at one place may have moved on: the norm behind a block to the front of the next.
    """
    inside = [
        (pair, source, target) for pair in found.held
        for source, target in [found.units_of(pair)] if source.block and target.block
    ]  # fmt: skip
    goes: dict[str, Counter[str]] = defaultdict(Counter)
    comes: dict[str, Counter[str]] = defaultdict(Counter)
    for _, source, target in inside:
        goes[source.block][target.block] += 1
        comes[target.block][source.block] += 1
    leaving = [
        (pair, _place_in_block(source))
        for pair, source, target in inside
        if not pair.named
        and _is_elsewhere(goes[source.block], target.block)
        and _is_elsewhere(comes[target.block], source.block)
        and is_one_path(_place(source.block), _place(target.block))
    ]
    often = Counter([place for _, place in leaving])
    return (pair for pair, place in leaving if often[place] == 1)


STRAYS = "it would go into another block than the one around it, and both go by their names"


def straying_from_named_blocks(found: Found) -> Iterator[Pair]:
    """Yield units that would go with an inner block from one block to another, where most else of both goes elsewhere by name.

    An expert of `layers.2` to `layers.1`, with `layers.2.mlp.experts` as names on one side: its own is there, called otherwise.
    """
    around = [
        (pair, blocks)
        for pair, source, target in found.with_units()
        if len(source.blocks) == len(target.blocks)
        for blocks in zip(source.blocks, target.blocks, strict=True)
    ]
    goes: dict[str, Counter[str]] = defaultdict(Counter)
    comes: dict[str, Counter[str]] = defaultdict(Counter)
    sizes: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for pair, blocks in around:
        for block, size in zip(blocks, sizes, strict=True):
            size[block] += 1
        if pair.named:
            goes[blocks[0]][blocks[1]] += 1
            comes[blocks[1]][blocks[0]] += 1
    for pair, (ours, theirs) in around:
        source, _ = found.units_of(pair)
        if pair.named or source.block == ours or not (goes[ours] and comes[theirs]):
            continue
        away, back = goes[ours].most_common(1)[0], comes[theirs].most_common(1)[0]
        elsewhere = away[0] != theirs and 2 * away[1] > sizes[0][ours] and 2 * back[1] > sizes[1][theirs]
        if elsewhere and is_one_path(_place(ours), _place(theirs)):
            yield pair


def _is_elsewhere(partners: Counter[str], block: str) -> bool:
    """Whether most of what a block holds goes with one other block."""
    most, count = partners.most_common(1)[0]
    return most != block and 2 * count > partners.total()


BEHIND = "the rest of its block finds no partner, while that of other blocks of the list does"


def leaving_free_blocks(found: Found) -> Iterator[Pair]:
    """Yield the few units that leave a block, or come into one, of which the rest stays free, unlike other blocks of its list.

    What was added to a block has the shapes of a layer of another block, which was taken out.
    """
    for side in (0, 1) if any(found.free) else ():
        sizes = Counter([unit.block for unit in found.sides[side] if unit.block])
        met = Counter([found.units_of(pair)[side].block for pair in found.held])
        left = {block for block, size in sizes.items() if 0 < 2 * met[block] <= size}
        kept = {list_of(block) for block, size in sizes.items() if 2 * met[block] > size} if left else set()
        for pair in found.held if kept else ():
            block = found.units_of(pair)[side].block
            if block in left and not pair.named and list_of(block) in kept:
                yield pair


EITHER_END = (
    "decoders and pyramids are counted from either end, and neither shapes nor names say from which both sides count"
)


def counted_from_either_end(found: Found) -> Iterator[Pair]:
    """Yield units in lists of decoders and pyramids whose direction nothing tells: `up.0` may be `up_blocks.3`."""
    ends = undirected([(pair.source, pair.target) for pair in found.held], *found.sides)
    for pair, source, target in found.with_units() if ends else ():
        if pair.target in ends and not (pair.named and is_one_path(source.path, target.path)):
            yield pair
