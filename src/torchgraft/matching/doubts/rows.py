"""Rules of doubt that look at rows of single layers, `0` and `2` of a Sequential or `fc1` and `fc2`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise
from operator import itemgetter

from torchgraft.matching.doubts.found import Found
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.lists import ListName, is_one_path, member_of
from torchgraft.matching.parts.units import Unit, blocks_of, kind_of
from torchgraft.matching.solving.reversed import leave_end_open

TORN = "it would leave a row of layers of which others stay free, and go into one that both sides have"


def torn_from_other_rows(found: Found) -> Iterator[Pair]:
    """Yield layers that would go from one row into another, where the rest of the one stays free and both sides have the other.

    `shared.2` to `actor.0`, with `shared.0` left over and `actor` on both sides: a whole row may go into another, no part of
    it.
    """
    rows = [
        (pair, source, target) for pair, source, target in found.with_units()
        if source.last.isdecimal() and target.last.isdecimal() and not source.blocks and not target.blocks
    ]  # fmt: skip
    left = (
        [{unit.parent for unit in units if unit.last.isdecimal()} for units in found.free] if rows else [set(), set()]
    )
    if not any(left):
        return
    one_row = {(s.parent, t.parent) for _, s, t in rows if is_one_path(s.parent, t.parent)}
    ours, theirs = {a for a, _ in one_row}, {b for _, b in one_row}
    for pair, source, target in rows:
        a, b = source.parent, target.parent
        torn = (a in left[0] and b in theirs) or (b in left[1] and a in ours)
        if torn and not pair.named and (a, b) not in one_row:
            yield pair


CROSSED = "members of this row would change places, though numbers count them on both sides"


def members_crosswise(found: Found) -> Iterator[Pair]:
    """Yield single layers of a row whose numbers fall where those of their partners rise.

    What a decoder ends with has the shapes of what an encoder begins with. Lists that shapes read from the other end may fall.
    """
    rows: dict[tuple[ListName, ListName], list[tuple[int, int, Pair]]] = defaultdict(list)
    for pair, source, target in found.with_units():
        if source.last.isdecimal() and target.last.isdecimal():
            (ours, number), (theirs, there) = member_of(source.path), member_of(target.path)
            rows[ours, theirs].append((number, there, pair))
    for both, members in rows.items():
        in_order = sorted(members, key=itemgetter(0))
        if not all(one[1] < following[1] for one, following in pairwise(in_order)) and not leave_end_open(*both):
            yield from (
                pair
                for number, there, pair in members
                if not pair.named and any((number < a) != (there < b) for a, b, other in members if other is not pair)
            )


BLOCKS_CROSSED = "blocks of this list would change places, though most of each would fit where its own number is"

# A list of the file and one of the model; the numbers of two members of them.
Rows = tuple[ListName, ListName]
Numbers = tuple[int, int]


def blocks_crosswise(found: Found) -> Iterator[Pair]:
    """Yield units of blocks whose numbers fall where those of others of the list rise, and that would fit at their own.

    Where something was put into one block of the file and into another one of the model, both fit crosswise as well. Lists may
    be counted from different numbers.
    """
    members: dict[Rows, dict[Numbers, list[tuple[Pair, bool]]]] = defaultdict(lambda: defaultdict(list))
    kinds = {unit.path: kind_of(unit) for unit in found.targets}
    ours_from, theirs_from = (_firsts(units) for units in found.sides)
    for pair, source, target in found.with_units():
        for ours, theirs in zip(source.blocks, target.blocks, strict=False):
            (row, number), (there, other) = member_of(ours), member_of(theirs)
            meant = number - ours_from[row] + theirs_from[there]
            own = theirs[: theirs.rfind(".") + 1] + there[1] + str(meant)
            fits = kinds.get(own + target.path[len(theirs) :]) == kind_of(source)
            members[row, there][number, other].append((pair, fits))
    for rows, held in members.items():
        if leave_end_open(*rows) or all(one[1] <= following[1] for one, following in pairwise(sorted(held))):
            continue
        for (number, other), pairs in held.items():
            moved = number - ours_from[rows[0]] != other - theirs_from[rows[1]]
            crossed = moved and any((number - a) * (other - b) < 0 for a, b in held)
            if crossed and 2 * sum(fits for _, fits in pairs) > len(pairs):
                as_counted = ours_from[rows[0]] == theirs_from[rows[1]]
                yield from (pair for pair, _ in pairs if not (pair.named and as_counted))


def _firsts(units: Iterable[Unit]) -> dict[ListName, int]:
    """Return the number that each list of blocks begins with."""
    firsts: dict[ListName, int] = {}
    for row, number in map(member_of, blocks_of(units)):
        firsts[row] = min(number, firsts.get(row, number))
    return firsts


OWN_NUMBER = "the layers counted with it go to those of their numbers, and the one of its own number stays free"


def leaving_their_numbers(found: Found) -> Iterator[Pair]:
    """Yield layers that leave a row whose others go to another one by their numbers, where that has its own number free.

    `fc1` to `proj`, with `head1` left over, and `fc2` and `fc3` as `head2` and `head3`.
    """
    free = [{unit.path: kind_of(unit) for unit in units if _ends_in_number(unit)} for units in found.free]
    if not any(free):
        return
    unnamed = [pair for pair in found.pairs if not pair.named]
    for side in (0, 1):
        goes: dict[ListName, Counter[tuple[ListName, int]]] = defaultdict(Counter)
        for _, *units in found.with_units():
            if all(map(_ends_in_number, units)):
                (row, number), (there, other) = member_of(units[side].path), member_of(units[1 - side].path)
                goes[row][there, other - number] += 1
        for pair in unnamed:
            own, partner = found.units_of(pair)[:: 1 - 2 * side]
            row, number = member_of(own.path) if _ends_in_number(own) else (("", ""), 0)
            if row not in goes:
                continue
            ((parent, before), further), count = goes[row].most_common(1)[0]
            meant = f"{parent}.{before}{number + further}".removeprefix(".")
            if count > 1 and meant != partner.path and free[1 - side].get(meant) == kind_of(own):
                yield pair


def _ends_in_number(unit: Unit) -> bool:
    return unit.last[-1:].isdecimal()
