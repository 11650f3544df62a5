"""Rules of doubt about lists of blocks in which one was changed or replaced, or of which one went elsewhere."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from functools import cache

from torchgraft.core.names import above, parent_of
from torchgraft.matching.doubts.found import Found
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.lists import ListName, fits_at_other_numbers, is_one_path, list_of, member_of, number_of
from torchgraft.matching.parts.units import Unit, blocks_of, kind_of

# What the units of a block are: the path of each inside of it, its roles and shapes.
Build = tuple[tuple[str, object], ...]
# The members of one list by number, each with its build.
Members = Mapping[int, Build]


def behind_replaced_blocks(found: Found) -> Iterator[Pair]:
    """Yield units of blocks behind a number whose blocks differ on the two sides and are both unmatched.

    One may have been inserted there, which moves all blocks behind it by one. Of these, only those are in doubt that have the
    same layers as the unmatched block: they could take its place.
    """
    fitting = [pair for pair in found.pairs if pair.fits]
    free = _free_blocks(found, ({pair.source for pair in fitting}, {pair.target for pair in fitting}))
    if not all(free):
        return
    lists, gone = _lists(found), [_by_list(side) for side in free]

    @cache
    def replaced(ours: ListName, theirs: ListName) -> list[int]:
        if not is_one_path(".".join(ours), ".".join(theirs)):
            return []
        both = gone[0][ours] & gone[1][theirs]
        return [at for at in both if dict(lists[0][ours][at]).keys() != dict(lists[1][theirs][at]).keys()]

    for pair, ours, theirs in _blocks(found.held, found):
        rows = list_of(ours), list_of(theirs)
        members = lists[0][rows[0]], lists[1][rows[1]]
        ends = number_of(ours), number_of(theirs)
        if any(
            at < min(ends) and any(side[end] == side[at] for side, end in zip(members, ends, strict=True))
            for at in replaced(*rows)
        ):
            yield pair


CHANGED = (
    "it has another number in its list, because one before it may be new; that one may as well be a member that was "
    "changed"
)


def behind_changed_blocks(found: Found) -> Iterator[Pair]:
    """Yield units of blocks that go to another number, behind an unmatched block that may be a changed one of its own number.

    A list that lost its last members, and has other sizes in its first one, looks like a list that lost its first members.
    """
    free = _free_blocks(found, found.paired)
    if not any(free):
        return
    lists, gone = _lists(found), [_by_list(side) for side in free]

    @cache
    def changed(ours: ListName, theirs: ListName) -> list[int]:
        first, second = lists[0][ours], lists[1][theirs]
        if not _are_one_list(ours, theirs) or min(first) != min(second):
            return []
        return [
            at for at in gone[0][ours] ^ gone[1][theirs]
            if at in first and at in second and _is_like(first[at], second[at])
        ]  # fmt: skip

    unnamed = [pair for pair in found.pairs if not pair.named]
    for pair, ours, theirs in _blocks(unnamed, found):
        ends = number_of(ours), number_of(theirs)
        if ends[0] != ends[1] and any(at <= max(ends) for at in changed(list_of(ours), list_of(theirs))):
            yield pair


SHIFTED = (
    "more blocks of the list are built like those of other numbers than like those of their own: blocks before them may be "
    "gone, or new"
)


def alike_at_other_numbers(found: Found) -> Iterator[Pair]:
    """Yield units of blocks that keep their number, where another number would fit more blocks of the list as built.

    Block 0 was taken out, and block 2, which alone has a shortcut, is block 1 now.
    """
    if not any(found.free):
        return
    lists = _lists(found)

    @cache
    def moved(ours: ListName, theirs: ListName) -> bool:
        return fits_at_other_numbers(lists[0][ours], lists[1][theirs])

    for pair, ours, theirs in _blocks(found.held, found):
        if number_of(ours) == number_of(theirs) and moved(list_of(ours), list_of(theirs)):
            yield pair


LEFT_OUT = (
    "numbers of this list are left out, and others are on both sides: they may be names, and no places in a row, and then each "
    "block would go to its own"
)


def behind_left_out_blocks(found: Found) -> Iterator[Pair]:
    """Yield units of blocks that go to another number of a list of which a side leaves numbers out, as a file that was cut down.

    Unlike layers, blocks seldom have others without tensors between them.
    """
    lists = _lists(found)

    @cache
    def may_be_names(ours: ListName, theirs: ListName) -> bool:
        first, second = lists[0][ours], lists[1][theirs]
        gaps = any(1 < len(row) <= max(row) - min(row) for row in (first, second))
        return gaps and _are_one_list(ours, theirs) and any(second.get(at) == build for at, build in first.items())

    for pair, ours, theirs in _blocks([pair for pair in found.pairs if not pair.named], found):
        if number_of(ours) != number_of(theirs) and may_be_names(list_of(ours), list_of(theirs)):
            yield pair


ONE_BLOCK = (
    "the file has several blocks of this build in a list where the model has one, outside of lists: "
    "any of them may be meant"
)


def one_block_of_several(found: Found) -> Iterator[Pair]:
    """Yield the units of blocks that go out of their list, where others of the same build stay free in it.

    `layers.2.attn` to `body.attn`, with `layers.0` and `layers.1` left over. The other way round, what the file has once is
    for all blocks of the model.
    """
    free = _free_blocks(found, found.paired)[0]
    if not free:
        return
    members = builds_of(found.sources)
    builds = {(row, members[row][number]) for row, number in map(member_of, free)}
    leaving: dict[str, list[Pair]] = defaultdict(list)
    for pair, source, target in found.with_units(unnamed=True):
        if source.block and not target.blocks:
            leaving[source.block].append(pair)
    for block, pairs in leaving.items():
        row, number = member_of(block)
        if len(pairs) > 1 and (row, members[row][number]) in builds:
            yield from pairs


SPLIT_OFF = (
    "the list has more members on one side, and the other one has as much again of their build in a module of its own, ahead of "
    "the list: that may be the first of them, and then all numbers are others"
)


def behind_split_off_blocks(found: Found) -> Iterator[Pair]:
    """Yield units of blocks of a list of which a member stays free, as a module of its build does on the other side.

    `layers.0` and `layers.1` beside `stem.0` and `layers.0`: nothing of that module is paired, and it comes ahead of the list
    or, for all that is known, may do so.
    """
    free = _free_blocks(found, found.paired)
    if not any(free):
        return
    lists = _lists(found)
    for side in (0, 1):
        apart = _modules_apart(found, 1 - side) if free[side] else {}
        open_rows = {
            (row, build): apart[build]
            for row, number in map(member_of, free[side])
            if (build := lists[side][row][number]) in apart
        }
        for pair in found.pairs if open_rows else ():
            own, other = found.units_of(pair)[:: -1 if side else 1]
            rows = ((row, lists[side][row][number]) for row, number in map(member_of, own.blocks))
            first = min((open_rows[row] for row in rows if row in open_rows), default=None)
            if first is not None and (other.order > first or not found.registered[1 - side]):
                yield pair


def _modules_apart(found: Found, side: int) -> Mapping[Build, int]:
    """Return the builds of modules of a side of which nothing is paired, nor of the list around them, each with its first place."""
    busy = {path for at in found.paired[side] for path in above(found.sides[side][at].path)}
    inside: dict[str, list[Unit]] = defaultdict(list)
    for unit in found.free[side]:
        for path in above(unit.path):
            if (parent_of(path) if path.rpartition(".")[2].isdecimal() else path) not in busy:
                inside[path].append(unit)
    return {
        tuple(sorted((unit.path[len(path) :], kind_of(unit)) for unit in units)): min(unit.order for unit in units)
        for path, units in inside.items()
    }


BESIDE_MOVED = "the list beside it, which has as many members on both sides, goes from other numbers"


def beside_moved_lists(found: Found) -> Iterator[Pair]:
    """Yield members of lists that numbers alone tell apart, where a list beside theirs goes from other numbers.

    A pyramid of features may begin one level higher: sizes say so of the layers that take them in, and nothing of those that
    smooth them.
    """
    builds = _lists(found)
    members: dict[tuple[ListName, ListName], list[tuple[Pair, int, int]]] = defaultdict(list)
    for pair, ours, theirs in _blocks(found.pairs, found):
        (row, number), (other, there) = member_of(ours), member_of(theirs)
        if len(builds[0][row]) != len(builds[1][other]):
            members[row, other].append((pair, number, there))
    steps = {both: {there - number for _, number, there in pairs} for both, pairs in members.items()}
    beside: dict[object, list[tuple[ListName, ListName]]] = defaultdict(list)
    met = Counter(row for both in members for row in {*both})
    for row, other in members:
        if met[row] > 1 or met[other] > 1:
            continue  # one list that went into several is another matter
        beside[_around(row), _around(other), len(builds[0][row]), len(builds[1][other])].append((row, other))
    for lists in beside.values():
        if len(set().union(*(steps[both] for both in lists))) > 1 and all(len(steps[both]) == 1 for both in lists):
            for both in lists:
                built = builds[0][both[0]]
                alike = Counter(built.values())
                yield from (pair for pair, number, _ in members[both] if alike[built[number]] > 1)


def _around(row: ListName) -> str:
    """Return the module that a list is in."""
    path, before = row
    return path if before else parent_of(path)


def _blocks(pairs: Iterable[Pair], found: Found) -> Iterator[tuple[Pair, str, str]]:
    """Yield each of the pairs with the blocks around its units that stand for each other, from the innermost on."""
    for pair in pairs:
        source, target = found.units_of(pair)
        for ours, theirs in zip(source.blocks[::-1], target.blocks[::-1], strict=False):
            yield pair, ours, theirs


def _free_blocks(found: Found, paired: Sequence[Container[int]]) -> list[set[str]]:
    """Return the blocks of either side of which no unit is paired."""
    sides = []
    for units, used in zip(found.sides, paired, strict=True):
        free = blocks_of([unit for at, unit in enumerate(units) if at not in used])
        sides.append(free - blocks_of([unit for at, unit in enumerate(units) if at in used]) if free else free)
    return sides


def _by_list(blocks: Iterable[str]) -> Mapping[ListName, set[int]]:
    """Return the numbers of blocks in each list."""
    found: dict[ListName, set[int]] = defaultdict(set)
    for block in blocks:
        row, number = member_of(block)
        found[row].add(number)
    return found


def _lists(found: Found) -> list[Mapping[ListName, Members]]:
    """Return the lists of blocks of either side."""
    return [builds_of(units) for units in found.sides]


def builds_of(units: Iterable[Unit]) -> Mapping[ListName, Members]:
    """Return the build of each member of each list of blocks."""
    inside: dict[str, list[tuple[str, object]]] = defaultdict(list)
    for unit in units:
        for block in unit.blocks:
            inside[block].append((unit.path[len(block) :], kind_of(unit)))
    lists: dict[ListName, dict[int, Build]] = defaultdict(dict)
    for block, held in inside.items():
        row, number = member_of(block)
        lists[row][number] = tuple(sorted(held))
    return lists


def _is_like(ours: Build, theirs: Build) -> bool:
    """Return whether of two blocks one may be the other with layers of other sizes, or with fewer layers."""
    one, other = (Counter(kind for _, kind in build) for build in (ours, theirs))
    return bool(one & other) and (dict(ours).keys() == dict(theirs).keys() or one <= other or other <= one)


def _are_one_list(ours: ListName, theirs: ListName) -> bool:
    """Return whether two lists have one name, but for what stands before it on one side."""
    return ours[1] == theirs[1] and ("" in (ours[0], theirs[0]) or is_one_path(ours[0], theirs[0]))
