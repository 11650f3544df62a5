"""Lists that the two sides count from opposite ends, as decoders and pyramids are: from the coarsest map or the finest.

`up` of the autoencoder of latent diffusion is `up_blocks` of diffusers the other way round, and `refinenet4` of DPT is
`fusion_stage.layers.0` in transformers. Where shapes tell some of the members apart, they tell the direction for all.
Where they don't, numbers prove nothing in such a list.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from math import prod
from typing import TYPE_CHECKING

from torchgraft.core.names import natural_key
from torchgraft.matching.evidence.scores import FITS
from torchgraft.matching.names.lists import ListName, list_of
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import Unit, blocks_of, kind_of
from torchgraft.matching.tables.dialect import EITHER_END, FROM_ANY_END, FROM_THE_LAST

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class Row:
    """A numbered list: its name, its members in the order of their numbers, their units by the path inside, their kinds."""

    name: ListName
    members: tuple[str, ...]
    inside: tuple[Mapping[str, int], ...]
    kinds: tuple[frozenset[tuple[object, int]], ...]


def with_lists_reversed(
    pairs: Sequence[tuple[int, int]], scores: np.ndarray, sources: Sequence[Unit], targets: Sequence[Unit]
) -> list[tuple[int, int]]:
    """Return the pairs, those of lists reversed whose members go the other way where shapes tell them apart."""
    to = dict(pairs)
    for ours, theirs in _facing(to, sources, targets):
        if (_direction(ours, theirs) or _by_convention(ours.name, theirs.name)) == -1:
            found = _reversed(ours, theirs, to, sources, targets)
            if found and all(scores[i, j] >= FITS for i, j in found.items()):
                to.update(found)
    return sorted(to.items())


def opposite(
    pairs: Iterable[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]
) -> frozenset[tuple[str, str]]:
    """Return the paths of lists that face each other and count from opposite ends, as shapes of their members say."""
    if not _any_from_either_end(sources, targets):
        return frozenset()
    facing = _facing(dict(pairs), sources, targets)
    found = [(ours.name, theirs.name) for ours, theirs in facing if _direction(ours, theirs) == -1]
    return frozenset((".".join(filter(None, ours)), ".".join(filter(None, theirs))) for ours, theirs in found)


def undirected(pairs: Iterable[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]) -> set[int]:
    """Return the targets in lists of decoders and pyramids whose direction nothing tells: neither shapes nor names."""
    if not _any_from_either_end(sources, targets):
        return set()
    to = dict(pairs)
    return {
        to[i]
        for ours, theirs in _facing(to, sources, targets)
        if _direction(ours, theirs) == 0 and leave_end_open(ours.name, theirs.name)
        for inside, there in zip(ours.inside, theirs.inside, strict=True)
        for i in inside.values()
        if not _attends(ours, inside.values(), sources) and not _attends(theirs, there.values(), targets)
        if i in to and any(targets[to[i]].path.startswith(path + ".") for path in theirs.members)
    }


def _any_from_either_end(sources: Sequence[Unit], targets: Sequence[Unit]) -> bool:
    """Return whether a list of either side is called as those are that libraries count from either end."""
    return any(_words_of(name) & EITHER_END for name in {list_of(block) for block in blocks_of((*sources, *targets))})


def _attends(row: Row, units: Iterable[int], side: Sequence[Unit]) -> bool:
    """Return whether a member of a list is a block of a transformer: with attention, and without maps that change in size.

    What is convolved along one axis keeps its length where all members are of one build, as in a Conformer.
    """
    held = [side[at] for at in units]
    words: set[str] = set().union(*(unit.words for unit in held))
    kernels = [leaf.shape[2:] for unit in held for leaf in unit.leaves.values() if prod(leaf.shape[2:]) > 1]
    maps = any(len(kernel) > 1 for kernel in kernels) if len({*row.kinds}) == 1 else bool(kernels)
    return not maps and ("attn" in words or "qkv" in words or words >= {"q", "k", "v"})


def leave_end_open(ours: ListName, theirs: ListName) -> bool:
    """Return whether the words of two lists leave open from which end each is counted."""
    said = [_words_of(name) for name in (ours, theirs)]
    shared = said[0] & said[1] & EITHER_END - FROM_ANY_END
    return bool((said[0] | said[1]) & EITHER_END) and not shared and said[0] != said[1]


def _by_convention(ours: ListName, theirs: ListName) -> int:
    """Return -1 where the words of one of the two lists say that it is counted from the other end than most.

    Those of the list alone: what a member of such a list holds in a list of its own is counted as everywhere.
    """
    own = [FROM_THE_LAST.intersection(canonical(name[1] or name[0].rpartition(".")[2])) for name in (ours, theirs)]
    return -1 if bool(own[0]) != bool(own[1]) else 0


def _words_of(name: ListName) -> set[str]:
    """Return the words of a list: of its members, or of the last two modules before their numbers.

    What goes bottom up is the backbone below a pyramid, and leads to no larger maps.
    """
    parent, before = name
    near: list[str] = [before] if before else []
    for part in reversed(parent.split(".")):
        if part.isdecimal() or len(near) == 2:
            break
        near.append(part)
    said = [canonical(part) for part in near]
    return {word for part in said for word in part if word != "up" or "bottom" not in part}


def _facing(to: Mapping[int, int], sources: Sequence[Unit], targets: Sequence[Unit]) -> Iterator[tuple[Row, Row]]:
    """Yield the lists of as many members that mostly feed each other.

    What all of a list goes to may lie in lists around it, too: the least of them faces it.
    """
    ours, theirs = _rows(sources), _rows(targets)
    homes = [_rows_around(rows) for rows in (ours, theirs)]
    met: dict[ListName, Counter[ListName]] = defaultdict(Counter)
    for i, j in to.items():
        for mine in homes[0].get(i, ()):
            met[mine].update(homes[1].get(j, ()))
    for name, row in ours.items():
        for count in sorted(met[name].values())[-1:]:
            other = min((theirs[best] for best, n in met[name].items() if n == count), key=_size)
            if len(other.members) == len(row.members) and 2 * count > _size(row):
                yield row, other


def _size(row: Row) -> int:
    return sum(map(len, row.inside))


def _rows_around(rows: Mapping[ListName, Row]) -> dict[int, list[ListName]]:
    found: dict[int, list[ListName]] = defaultdict(list)
    for name, row in rows.items():
        for inside in row.inside:
            for at in inside.values():
                found[at].append(name)
    return found


def _rows(units: Sequence[Unit]) -> dict[ListName, Row]:
    """Return the numbered lists of blocks, without those of which a few members stand for all: they go by their numbers."""
    members: dict[ListName, dict[str, dict[str, int]]] = {}
    for at, unit in enumerate(units):
        for block, place in zip(unit.blocks, unit.places or repeat(None), strict=False):
            if place is not None:
                continue
            row = members.setdefault(list_of(block), {})
            row.setdefault(block, {})[unit.path[len(block) + 1 :]] = at
    return {
        name: Row(
            name,
            tuple(paths := sorted(row, key=natural_key)),
            tuple(row[path] for path in paths),
            tuple(frozenset(Counter(kind_of(units[at]) for at in row[path].values()).items()) for path in paths),
        )
        for name, row in members.items()
        if len(row) > 1
    }


def _direction(ours: Row, theirs: Row) -> int:
    """Return 1 where shapes say that both count from the same end, -1 from opposite ends, 0 where they don't tell.

    Whole members say it, or else, where one side holds more in each, their units: those of one member alone.
    """
    last = len(ours.members) - 1
    told = _met(_by_kind(enumerate(ours.kinds)), _by_kind(enumerate(theirs.kinds)))
    if told:
        if any(p + q != last for p, q in told):
            return 1
        return -1 if any(p != q for p, q in told) else 0
    units = [((at, kind) for at, kinds in enumerate(row.kinds) for kind, _ in kinds) for row in (ours, theirs)]
    told = _met(*map(_by_kind, units))
    same, other = all(p == q for p, q in told), all(p + q == last for p, q in told)
    return 0 if same == other else 1 if same else -1


def _by_kind(members: Iterable[tuple[int, object]]) -> dict[object, int | None]:
    """Return by its kind the place of what is the only one of its kind in a list; None for all else."""
    found: dict[object, int | None] = {}
    for at, kind in members:
        found[kind] = at if kind not in found else None
    return found


def _met(ours: Mapping[object, int | None], theirs: Mapping[object, int | None]) -> list[tuple[int, int]]:
    """Return the places in both lists of what is the only one of its kind in both."""
    return [(p, q) for kind, p in ours.items() if p is not None and (q := theirs.get(kind)) is not None]


def _reversed(
    ours: Row, theirs: Row, to: Mapping[int, int], sources: Sequence[Unit], targets: Sequence[Unit]
) -> dict[int, int]:
    """Return the pairs of a list reversed; none where a member or a part of one finds no place there."""
    homes = {at: n for n, inside in enumerate(theirs.inside) for at in inside.values()}
    found: dict[int, int] = {}
    for n, inside in enumerate(ours.inside):
        there = theirs.inside[len(theirs.members) - 1 - n]
        for i in inside.values():
            j = to.get(i)
            if j is None or j not in homes:
                continue
            tail = targets[j].path[len(theirs.members[homes[j]]) + 1 :]
            if tail not in there or kind_of(targets[there[tail]]) != kind_of(sources[i]):
                return {}
            found[i] = there[tail]
    same = set(found.values()) == {to[i] for i in found} and len(set(found.values())) == len(found)
    return found if same and any(to[i] != j for i, j in found.items()) else {}
