"""What numbered lists as a whole say against a pair that fits by itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import product

from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.words import place_in_list, place_of, stem
from torchgraft.matching.parts.units import Unit, around_several, blocks_of, kind_of

Row = tuple[str, str]
# What the units of a block are: the path of each inside of it, its roles and shapes.
Build = tuple[tuple[str, object], ...]


def row_of(block: str) -> Row:
    """Return the list that a block is a member of: the path around it, and what stands before its number."""
    parent, _, last = block.rpartition(".")
    return parent, stem(last) or ""


def number_of(block: str) -> int:
    """Return the number of a block in its list."""
    return place_in_list(block.rpartition(".")[2][len(row_of(block)[1]) :])


def is_one_path(ours: str, theirs: str) -> bool:
    """Return whether two paths are one but for what stands before it."""
    return f".{ours}".endswith(f".{theirs}") or f".{theirs}".endswith(f".{ours}")


class Counted:
    """Lists of one name that the sides count from different numbers and that differ in length: numbers say nothing.

    A list of one member counts, too, if that is a block: where the other side has more, its number may mean another.
    """

    def __init__(self, sources: Sequence[Unit], targets: Sequence[Unit]) -> None:
        self._inner = _inner_blocks(sources), _inner_blocks(targets)
        self._rows = [
            {row: (min(held), len(held)) for row, held in _numbers(blocks.values(), units).items()}
            for blocks, units in zip(self._inner, (sources, targets), strict=True)
        ]

    def __bool__(self) -> bool:
        """Whether any two lists are counted from different numbers."""
        return len({first for rows in self._rows for first, _ in rows.values()}) > 1

    def differ(self, source: Unit, target: Unit) -> bool:
        """Return whether the blocks of two units are members of such lists."""
        blocks = self._inner[0][source.parent], self._inner[1][target.parent]
        if not all(blocks):
            return False
        ours, theirs = map(row_of, blocks)
        if not is_one_path(".".join(ours), ".".join(theirs)):
            return False
        first, second = self._rows[0][ours], self._rows[1][theirs]
        return first[0] != second[0] and first[1] != second[1]


def _inner_blocks(units: Sequence[Unit]) -> dict[str, str]:
    """Return for each module that holds units the innermost block around them, alone in its list or not, "" without one."""
    shared = around_several(Counter([unit.parent for unit in units]))
    found: dict[str, str] = {"": ""}

    def numbered(path: str) -> str:
        known = found.get(path)
        if known is None:
            parent, _, last = path.rpartition(".")
            known = found[path] = path if last.isdecimal() and path in shared else numbered(parent)
        return known

    return {
        parent: max(block, numbered(parent), key=len) for parent, block in {u.parent: u.block for u in units}.items()
    }


def _numbers(blocks: Iterable[str], units: Iterable[Unit]) -> dict[Row, set[int]]:
    """Return the numbers of the members of each list."""
    found: dict[Row, set[int]] = defaultdict(set)
    for block in {*filter(None, blocks)} | blocks_of(units):
        parent, _, last = block.rpartition(".")
        before = stem(last) or ""
        found[parent, before].add(place_in_list(last[len(before) :]))
    return found


class Lists:
    """The lists of both sides, and where blocks would leave their own."""

    def __init__(self, sources: Sequence[Unit], targets: Sequence[Unit]) -> None:
        places = _places(sources), _places(targets)
        ends = [{end for place in side for end in _ends(place)} for side in places]
        # The places of either side that are one path with some of the other's.
        self._both = [
            {place for place in side if place in others or not there.isdisjoint(_ends(place))}
            for side, there, others in zip(places, places[::-1], ends[::-1], strict=True)
        ]
        self._known: dict[tuple[str, str], bool] = {}
        self._left: dict[tuple[tuple[str, ...], tuple[str, ...]], bool] = {}

    def __bool__(self) -> bool:
        """Whether there are two lists that both sides have."""
        return any(self._differ(ours, theirs) for ours, theirs in product(*self._both))

    def are_left(self, source: Unit, target: Unit) -> bool:
        """Return whether a block would go from one list into another, of which both sides have both."""
        blocks = source.blocks, target.blocks
        found = self._left.get(blocks)  # the units of a block come one after the other
        if found is None:
            found = self._left[blocks] = len(blocks[0]) == len(blocks[1]) and any(
                self._differ(_place(a), _place(b)) for a, b in zip(*blocks, strict=True)
            )
        return found

    def _differ(self, ours: str, theirs: str) -> bool:
        found = self._known.get((ours, theirs))
        if found is None:
            both = ours in self._both[0] and theirs in self._both[1]
            found = self._known[ours, theirs] = both and not is_one_path(ours, theirs)
        return found


def _place(block: str) -> str:
    """Return the path of a list with numbers set aside."""
    return place_of(".".join(row_of(block)))


def _places(units: Iterable[Unit]) -> set[str]:
    """Return the places of all lists, of one member, too."""
    rows: set[Row] = set()
    known = {""}
    for parent in {unit.parent for unit in units}:
        path = parent
        while path not in known:
            known.add(path)
            path, _, last = path.rpartition(".")
            before = stem(last)
            if before is not None:
                rows.add((path, before))
    return {place_of(".".join(row)) for row in rows}


def _ends(path: str) -> Iterator[str]:
    """Yield the path and what is left of it without its first segments."""
    yield path
    while path:
        path = path.partition(".")[2]
        yield path


def rearranged(pairs: Sequence[Pair], sources: Sequence[Unit], targets: Sequence[Unit]) -> set[tuple[str, str]]:
    """Return the lists of layers, one of each side, in which a layer would change its place among the others."""
    ends = (
        (sources[pair.source].path, targets[pair.target].path) for pair in pairs if not (pair.in_order or pair.named)
    )
    return {rows for ours, theirs in ends if (rows := rows_of(ours, theirs))}


def rows_of(ours: str, theirs: str) -> tuple[str, str] | None:
    """Return the lists that two layers are members of, None where these aren't of one name."""
    (one, _, here), (other, _, there) = ours.rpartition("."), theirs.rpartition(".")
    return (one, other) if here.isdecimal() and there.isdecimal() and is_one_path(one, other) else None


def behind_another(pairs: Sequence[Pair], sources: Sequence[Unit], targets: Sequence[Unit]) -> set[int]:
    """Return the targets in blocks behind one that is of another build on the two sides, and left over on both.

    What was put in there may have moved the blocks behind it by one: of these, those are told of whose build is that of
    a block that stays free.
    """
    sides = sources, targets
    used = {pair.source for pair in pairs if pair.fits}, {pair.target for pair in pairs if pair.fits}
    free = [_free_blocks(units, paired) for units, paired in zip(sides, used, strict=True)]
    if not all(free):
        return set()
    held = [_members(units) for units in sides]
    builds = [
        {block: _build(block, inside, units) for block, inside in blocks.items()}
        for blocks, units in zip(held, sides, strict=True)
    ]
    lost: set[int] = set()
    rows: dict[tuple[Row, Row], list[tuple[int, tuple[Build, Build]]]] = {}
    for pair in pairs:
        source, target = sources[pair.source], targets[pair.target]
        for ours, theirs in zip(source.blocks, target.blocks, strict=False):
            met = row_of(ours), row_of(theirs)
            if met not in rows:
                rows[met] = _replaced(met, free, builds)
            own = builds[0][ours], builds[1][theirs]
            behind = min(number_of(ours), number_of(theirs))
            if any((at < behind and own[1] == two[1]) or (own[0] == two[0] and at < behind) for at, two in rows[met]):
                lost.add(pair.target)
    return lost


def _free_blocks(units: Sequence[Unit], paired: Container[int]) -> set[str]:
    """Return the blocks of which no unit is paired."""
    free = blocks_of([unit for at, unit in enumerate(units) if at not in paired])
    return free - blocks_of([unit for at, unit in enumerate(units) if at in paired]) if free else free


def _replaced(
    rows: tuple[Row, Row], free: Sequence[set[str]], builds: Sequence[Mapping[str, Build]]
) -> list[tuple[int, tuple[Build, Build]]]:
    """Return numbers of two lists of one name under which both sides have a free block, each with other names inside, with both."""
    if not is_one_path(".".join(rows[0]), ".".join(rows[1])):
        return []
    ours, theirs = (
        {number_of(block): builds[side][block] for block in free[side] if row_of(block) == rows[side]}
        for side in (0, 1)
    )
    both = [(at, (ours[at], theirs[at])) for at in ours.keys() & theirs.keys()]
    return [(at, builds) for at, builds in both if dict(builds[0]).keys() != dict(builds[1]).keys()]


def _members(units: Sequence[Unit]) -> dict[str, list[int]]:
    """Return the units of each block."""
    found: dict[str, list[int]] = defaultdict(list)
    for at, unit in enumerate(units):
        for block in unit.blocks:
            found[block].append(at)
    return found


def _build(block: str, inside: Iterable[int], units: Sequence[Unit]) -> Build:
    return tuple(sorted((units[at].path[len(block) :], kind_of(units[at])) for at in inside))
