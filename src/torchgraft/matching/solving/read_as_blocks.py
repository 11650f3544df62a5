"""Lists side by side (`convs.0`, `convs.1`, `norms.0`, `norms.1`) read as one list of blocks (`0.convs`, `0.norms`).

One library keeps a list for each kind of layer, another a list of blocks that hold one of each. In file order the first
has all layers of a kind together, and order then tells the wrong story.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from torchgraft.matching.evidence.scores import gather_shapes
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.parts.units import Unit
from torchgraft.matching.solving.algorithms import align

# What stands for the lists' names in the path of a block made of them.
ANY = "*"

# Up to so many possible pairs are compared both ways: a fraction of a second.
MOST = 1_000_000

# Up to so many lists are tried in each order of theirs.
FEW = 3

# Lists at so many places are looked at.
MANY = 6


# A member of a list: the units in it, each as its place and how deep in its path the number of the member is.
Member = list[tuple[int, int]]


def read_as_blocks(
    sources: Sequence[Unit], targets: Sequence[Unit], registered: tuple[bool, bool] = (True, True)
) -> tuple[list[Unit], list[Unit]]:
    """Return both sides, with lists side by side read as blocks where the two then agree further in their order.

    Within a block the order is that in which the lists come, or another one if the two sides then agree even further: a
    model may register its lists in any order. Lists at corresponding places of other blocks are read alike.
    Where a side doesn't come as `registered`, lists of one build are stages, each with its blocks: which comes first isn't
    known.
    """
    best = list(sources), list(targets)
    if len(sources) * len(targets) > MOST:
        return best
    most = -1
    for side in (0, 1):
        found = _side_by_side(best[side])
        if not all(registered):
            found = [(place, lists) for place, lists in found if not _are_stages(lists, best[side])]
        for place in list(dict.fromkeys(place for place, _ in found))[:MANY]:
            for units in list(_as_blocks(best[side], place)):
                most = most if most >= 0 else _length(*best)
                other = (units, best[1]) if side == 0 else (best[0], units)
                reached = _length(*other)
                if reached > most:
                    best, most = other, reached
    return best


def _are_stages(lists: Sequence[Sequence[Member]], units: Sequence[Unit]) -> bool:
    """Return whether two lists have members of several layers, some of which are called the same."""
    inside = [
        {units[at].path.split(".", depth + 1)[-1] for member in one if len(member) > 1 for at, depth in member}
        for one in lists
    ]
    return len(set().union(*inside)) < sum(map(len, inside))


def _length(sources: Sequence[Unit], targets: Sequence[Unit]) -> int:
    return len(align(np.where(gather_shapes(sources, targets), 1.0, 0.0).astype(np.float32)))


def _as_blocks(units: Sequence[Unit], place: str) -> Iterator[list[Unit]]:
    """Yield the units with the lists at a place in the order of blocks, for each order within blocks that is tried."""
    groups = [lists for at, lists in _side_by_side(units) if at == place]
    usual = range(max(map(len, groups), default=0))
    for order in permutations(usual) if len(usual) <= FEW else [tuple(usual)]:
        moved: dict[int, list[Unit]] = {}
        for lists in groups:
            members = [lists[k][n] for n in range(len(lists[0])) for k in order if k < len(lists)]
            inside = [(at, depth) for member in members for at, depth in member]
            moved[min(inside)[0]] = [_in_block(units[at], depth) for at, depth in inside]
        gone = {at for lists in groups for one in lists for member in one for at, _ in member}
        out: list[Unit] = []
        for at, unit in enumerate(units):
            out += moved.get(at, [] if at in gone else [unit])
        yield out


def _side_by_side(units: Sequence[Unit]) -> list[tuple[str, list[list[Member]]]]:
    """Return the groups of lists of equal length below one path, outer ones first: their place, and lists of members.

    No unit is in two of the groups.
    """
    lists: dict[tuple[str, str], dict[int, Member]] = {}
    for at, unit in enumerate(units):
        parts = unit.path.split(".")
        for depth in range(1, len(parts)):
            if parts[depth].isdecimal() and not parts[depth - 1].isdecimal():
                place = ".".join(parts[: depth - 1]), parts[depth - 1]
                lists.setdefault(place, {}).setdefault(int(parts[depth]), []).append((at, depth))
    groups: dict[tuple[str, int], list[list[Member]]] = {}
    for (parent, _), members in lists.items():
        if set(members) == set(range(len(members))) and len(members) > 1:
            groups.setdefault((parent, len(members)), []).append([members[n] for n in range(len(members))])
    chosen: list[tuple[str, list[list[Member]]]] = []
    taken: set[int] = set()
    for (parent, _), found in sorted(groups.items(), key=lambda item: len(item[0][0].split("."))):
        inside = {at for one in found for member in one for at, _ in member}
        if len(found) > 1 and taken.isdisjoint(inside):
            chosen.append((place_of(parent), found))
            taken |= inside
    return chosen


def _in_block(unit: Unit, depth: int) -> Unit:
    """Return the unit with its path read as in a block: `norms.2.scale` as `*.2.norms.scale`."""
    parts = unit.path.split(".")
    *parents, name, number = parts[: depth + 1]
    old, block = ".".join(parts[: depth + 1]), ".".join([*parents, ANY, number])
    outer = [path for path in unit.blocks if block.startswith(f"{path}.")]
    inner = [f"{block}.{name}{path[len(old) :]}" for path in unit.blocks if path.startswith(f"{old}.")]
    return replace(unit, path=f"{block}.{name}{unit.path[len(old) :]}", blocks=(*outer, block, *inner))
