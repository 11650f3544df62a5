"""Repeats: members of a numbered list that hold the same units, so that a few of them can stand for all.

A hundred layers of the same kind are one question, not a hundred. Members are of one class when they hold the same
units (paths within the member, roles and shapes) in the same order and their neighbours in the list do so too; the first
and the last, and those beside another kind, are thus classes of their own. Of each class the first and last few stay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from torchgraft.core.names import template
from torchgraft.matching.names.lists import number_of, stem
from torchgraft.matching.parts.units import Unit

# How many of a class stay at each end of it. A class of one more than all that stay isn't worth the detour.
STAY = 2

Kind = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """One numbered list: what its members hold, and which of them stand for all."""

    parent: str
    stem: str
    members: tuple[str, ...]  # their paths in order
    units: tuple[tuple[int, ...], ...]  # the units of each
    kinds: tuple[int, ...]  # what kind each is, numbered as they come: equal for lists whose same members are alike
    classes: tuple[tuple[int, ...], ...]  # the places of each class's members
    stay: frozenset[int]  # the places that stay

    @property
    def kind(self) -> Kind:
        """What it shares with the same list in other members of a list around it: its path without numbers."""
        return template(self.parent)[0], self.stem


@dataclass(frozen=True, slots=True)
class CutDown:
    """One side cut down: the units that stay, their numbers on the whole side, the lists that were cut (outer first)."""

    units: list[Unit]
    at: list[int]
    repeats: list[Repeat]


def find_repeats(units: Sequence[Unit], marks: Sequence[Hashable]) -> list[Repeat]:
    """Return the numbered lists of which not all members have to stay, outer ones first.

    `marks` has for each unit what else has to be equal in those that stand for each other. Lists whose members come in another
    order than their numbers are left out.
    """
    signs = _signs(units, marks)
    found: list[Repeat] = []
    for (parent, before), held in _lists(units).items():
        if len(held) <= 2 * STAY + 3 or not _ascending(held):
            continue
        kinds = _kinds(
            [tuple([(units[n].path[len(path) :], signs[n]) for n in inside]) for path, inside in held.items()]
        )
        classes = _classes(kinds)
        stay = frozenset(at for places in classes for at in _ends(places))
        if len(stay) < len(held):
            found.append(
                Repeat(
                    parent=parent,
                    stem=before,
                    members=tuple(held),
                    units=tuple(map(tuple, held.values())),
                    kinds=kinds,
                    classes=classes,
                    stay=stay,
                )
            )
    return sorted(found, key=lambda repeat: repeat.parent.count(".") if repeat.parent else -1)


def _kinds(whole: Sequence[Hashable]) -> tuple[int, ...]:
    ids: dict[Hashable, int] = {}
    return tuple(ids.setdefault(kind, len(ids)) for kind in whole)


def _classes(kinds: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    found: dict[tuple[int, ...], list[int]] = {}
    around = (-1, *kinds, -1)
    for at in range(len(kinds)):
        found.setdefault(around[at : at + 3], []).append(at)
    return tuple(map(tuple, found.values()))


def _ends(places: tuple[int, ...]) -> tuple[int, ...]:
    return places if len(places) <= 2 * STAY + 1 else (*places[:STAY], *places[-STAY:])


def _signs(units: Sequence[Unit], marks: Sequence[Hashable]) -> list[int]:
    """Return a number for each unit, equal where roles, shapes and marks are."""
    ids: dict[Hashable, int] = {}
    return [
        ids.setdefault((mark, *[(role, leaf.role, leaf.shape) for role, leaf in unit.leaves.items()]), len(ids))
        for unit, mark in zip(units, marks, strict=True)
    ]


def _lists(units: Sequence[Unit]) -> dict[tuple[str, str], dict[str, list[int]]]:
    """Return the units inside each member of each list: (parent path, stem) -> member's path -> numbers of units."""
    chains: dict[str, list[tuple[tuple[str, str], str]]] = {"": []}

    def chain(path: str) -> list[tuple[tuple[str, str], str]]:
        known = chains.get(path)
        if known is None:
            parent, _, last = path.rpartition(".")
            known = chain(parent)
            before = stem(last)
            if before is not None:
                known = [*known, ((parent, before), path)]
            chains[path] = known
        return known

    found: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(dict)
    for parent, run in groupby(range(len(units)), key=[unit.parent for unit in units].__getitem__):
        inside = list(run)
        for place, member in chain(parent):
            found[place].setdefault(member, []).extend(inside)
        for n in inside:
            before = stem(units[n].last)
            if before is not None:
                found[parent, before].setdefault(units[n].path, []).append(n)
    return found


def _ascending(members: Collection[str]) -> bool:
    numbers = [number_of(path) for path in members]
    return all(a < b for a, b in pairwise(numbers))


def cut_down(
    sides: tuple[Sequence[Unit], Sequence[Unit]], repeats: tuple[Sequence[Repeat], Sequence[Repeat]]
) -> tuple[CutDown, CutDown] | None:
    """Return both sides with a few members of each list standing for all; None where nothing would go.

    Only lists are cut that have a list of the same kinds, place by place, on the other side.
    """
    both = {r.kinds for r in repeats[0]} & {r.kinds for r in repeats[1]}
    if not both:
        return None
    first, second = (
        _few(units, [r for r in side if r.kinds in both]) for units, side in zip(sides, repeats, strict=True)
    )
    return first, second


def _few(units: Sequence[Unit], repeats: Sequence[Repeat]) -> CutDown:
    gone = bytearray(len(units))
    times: dict[str, float] = {}
    places: dict[str, tuple[int, int]] = {}
    cut: list[Repeat] = []
    for repeat in repeats:
        if gone[repeat.units[0][0]]:
            continue  # inside a member that is gone
        cut.append(repeat)
        for at, inside in enumerate(repeat.units):
            places[repeat.members[at]] = (at, len(repeat.members))
            if at not in repeat.stay:
                for n in inside:
                    gone[n] = 1
        for same in repeat.classes:
            left = [at for at in same if at in repeat.stay]
            times.update((repeat.members[at], len(same) / len(left)) for at in left)
    left_over = [n for n in range(len(units)) if not gone[n]]
    return CutDown([_standing(units[n], times, places) for n in left_over], left_over, cut)


def _standing(unit: Unit, times: Mapping[str, float], places: Mapping[str, tuple[int, int]]) -> Unit:
    """Return the unit with how many it stands for, and its blocks' places in the whole lists."""
    return replace(
        unit,
        times=tuple(times.get(path, 1.0) for path in (*unit.blocks, unit.path)),
        places=tuple(places.get(block) for block in unit.blocks),
    )
