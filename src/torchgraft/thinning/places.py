"""Where the names that stay lie: in which runs, as which members, and for which names they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torchgraft.thinning.runs import Run, Runs, Tree, is_number


class UnevenError(Exception):
    """What is said of the few can't be said of all."""


class Level(NamedTuple):
    """The number of a member in a name: the index of its run among those around, and what numbers may stand there."""

    level: int
    run: tuple[str, ...]


# Of a name or a text: as it is, or the number of whichever member is meant.
Part = str | Level


@dataclass(frozen=True, slots=True)
class Place:
    """Where a name that stays lies, on the whole side.

    `pieces` are its name cut at the numbers in runs, of which there is one less; `runs` have the numbers that may stand there,
    and `at` the indices in these of those that do.
    """

    pieces: tuple[str, ...]
    runs: tuple[tuple[str, ...], ...] = ()
    at: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The name on the whole side."""
        return self.pieces[0] + "".join(
            [run[at] + piece for run, at, piece in zip(self.runs, self.at, self.pieces[1:], strict=True)]
        )

    @property
    def lengths(self) -> tuple[int, ...]:
        """How long the runs are."""
        return tuple(map(len, self.runs))

    @property
    def is_inside(self) -> bool:
        """Whether it is at no end of a run, as those that don't stay."""
        return all(0 < at < len(run) - 1 for at, run in zip(self.at, self.runs, strict=True))

    def is_around(self, other: Place) -> bool:
        """Whether another place lies in the same member of the same run as this path does, or this is in none."""
        depth = len(self.at)
        return (self.pieces[:depth], self.runs, self.at) == (other.pieces[:depth], other.runs[:depth], other.at[:depth])

    def segments(self) -> list[list[Part]]:
        """Return the parts of each segment of its name."""
        segments: list[list[Part]] = [[one] for one in self.pieces[0].split(".")]
        for level, (run, piece) in enumerate(zip(self.runs, self.pieces[1:], strict=True)):
            first, *others = piece.split(".")
            segments[-1] += [Level(level, run), first]
            segments += [[one] for one in others]
        return segments


class Member(NamedTuple):
    """A child that stays: what it is called among those that do, its run, and its index in that."""

    name: str
    run: Run | None = None
    at: int = 0


def places_of(tree: Tree, runs: Runs, sizes: Mapping[int, int]) -> dict[str, Place]:
    """Return the places of all names and paths that stay, by what they are called then: numbers without gaps."""
    found: dict[str, Place] = {}

    def walk(node: Tree, path: str, pieces: tuple[str, ...], inside: Place) -> None:
        for name, member in _members(node, runs.of(node), sizes).items():
            own = path + member.name
            if member.run is None:
                place = Place((*pieces[:-1], pieces[-1] + name), inside.runs, inside.at)
            else:
                place = Place(
                    (*pieces[:-1], pieces[-1] + member.run.stem, ""),
                    (*inside.runs, member.run.numbers),
                    (*inside.at, member.at),
                )
            found[own] = place
            child = node[name]
            if not isinstance(child, int):
                walk(child, f"{own}.", (*place.pieces[:-1], f"{place.pieces[-1]}."), place)

    walk(tree, "", ("",), Place(("",)))
    return found


def _members(node: Tree, runs: Sequence[Run], sizes: Mapping[int, int]) -> dict[str, Member]:
    """Return the children that stay, in their order; those behind a run that became shorter count from its end."""
    if not runs:
        return {name: Member(name) for name in node}
    gone: set[str] = set()
    inside: dict[str, tuple[Run, int]] = {}
    shorter: dict[str, list[tuple[int, int]]] = {}
    for run in runs:
        size = sizes[len(run)]
        gone.update(run.stem + number for number in run.numbers[size - 1 : -1])
        inside.update((run.stem + number, (run, at)) for at, number in enumerate(run.numbers))
        shorter.setdefault(run.stem, []).append((int(run.numbers[size - 1]), len(run) - size))

    def called(name: str) -> str:
        """Return the name with the number that it has once the others are gone."""
        for stem, cuts in shorter.items():
            number = name[len(stem) :]
            if name.startswith(stem) and is_number(number):
                return f"{stem}{int(number) - sum(less for first, less in cuts if int(number) >= first)}"
        return name

    return {name: Member(called(name), *inside.get(name, ())) for name in node if name not in gone}
