"""What the other members of a list say against a pair that fits by itself."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.judging.lists import Row, row_of
from torchgraft.matching.names.words import place_of
from torchgraft.matching.parts.units import Unit


def lonely(used: Collection[int], left: Iterable[Unit], units: Sequence[Unit]) -> set[int]:
    """Return the paired (`used`) units of one side whose like is left in most blocks of the list in which others are paired.

    An adapter that was added to all layers has nothing in the file, also where one has the shapes of something else.
    """
    left = list(left)
    blocks = {units[at].block for at in used} if left else set()
    free = Counter([_place(unit) for unit in left if unit.block in blocks])
    if not free:
        return set()
    places = {at: _place(units[at]) for at in used if units[at].block}
    fed = Counter(places.values())
    return {at for at, place in places.items() if free[place] > fed[place]}


def _place(unit: Unit) -> tuple[str, str]:
    return place_of(unit.block), unit.tail


def torn(pairs: Iterable[Pair], sources: Sequence[Unit], targets: Sequence[Unit]) -> set[int]:
    """Return the targets in blocks of which parts go to, or come from, the same parts of several members of one list.

    Where shapes send a convolution to the block beside, the norms that fit in both by name belong there, too.
    """
    met: dict[tuple[str, str], list[int]] = defaultdict(list)
    for pair in pairs:
        source, target = sources[pair.source], targets[pair.target]
        if source.tail == target.tail and source.block and target.block:
            met[source.block, target.block].append(pair.target)
    goes: dict[tuple[str, Row, int], list[list[int]]] = defaultdict(list)
    for (ours, theirs), held in met.items():
        goes[ours, row_of(theirs), 0].append(held)
        goes[theirs, row_of(ours), 1].append(held)
    return {at for several in goes.values() if len(several) > 1 for held in several for at in held}
