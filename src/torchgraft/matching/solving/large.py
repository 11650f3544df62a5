"""Large models: what repeats is matched once, by the same judge, and said of all repeats where those few agree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, replace
from functools import partial

from torchgraft.core.errors import UsageError
from torchgraft.core.system.fast_objects import maker
from torchgraft.matching.evidence.repeats import CutDown, Kind, Repeat, cut_down, find_repeats
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.parts.units import Unit
from torchgraft.matching.solving.solve import Problem, solve

# Up to so many possible pairs all are looked at: to cut them down would take as long.
AT_ONCE = 10_000
# From more possible pairs on, those whose names may decide are not compared with the others: it would take a minute.
SOME = 4_000_000
# More pairs than these are not compared: at about so many bytes each, memory would run out and time with it.
MOST, BYTES = 16_000_000, 100

_make_pair = maker(Pair)


def solve_large(problem: Problem) -> list[Pair]:
    """Return the pairs of the best reading, as `solve` does; time grows with what is different, not with what repeats.

    Lists that are alike on both sides, place by place, are cut down to a few members of each class. Where those turn out to
    speak for the others no longer (two of a class go different ways), these lists are taken whole in another round.

    Raises:
        UsageError: too much differs to compare each with each.
    """
    sources, targets, named, pinned = problem.sources, problem.targets, problem.named, problem.pinned
    if len(sources) * len(targets) <= AT_ONCE:
        return solve(problem)
    taken = set(named.values()), set(pinned.values())
    repeats = (
        find_repeats(sources, [(n in named, n in pinned) for n in range(len(sources))]),
        find_repeats(targets, [(n in taken[0], n in taken[1]) for n in range(len(targets))]),
    )
    whole: frozenset[tuple[int, Kind]] = frozenset()
    while True:
        few = cut_down((sources, targets), (_without(repeats[0], 0, whole), _without(repeats[1], 1, whole)))
        if few is None:
            return _solve_rest(problem)
        try:
            return _solve_few(problem, few)
        except DisagreeError as error:
            whole |= error.kinds


def _solve_rest(problem: Problem) -> list[Pair]:
    """Return the pairs of the best reading; where there are very many modules, what names may decide is taken by name.

    Raises:
        UsageError: too much is left to compare each with each.
    """
    if len(problem.sources) * len(problem.targets) <= SOME:
        return solve(problem)
    taken = set(problem.pinned.values())
    left = (
        [i for i in range(len(problem.sources)) if i not in problem.pinned],
        [j for j in range(len(problem.targets)) if j not in taken],
    )
    _check_size(*map(len, left))
    ours, theirs = ({n: k for k, n in enumerate(side)} for side in left)
    named = {ours[i]: theirs[j] for i, j in problem.named.items() if i in ours and j in theirs}
    sources, targets = [problem.sources[i] for i in left[0]], [problem.targets[j] for j in left[1]]
    rest = solve(replace(problem, sources=sources, targets=targets, named=named, pinned={}))
    by_name = [_by_name(i, j) for i, j in problem.pinned.items()]
    return sorted((*by_name, *(_on_whole(pair, *left) for pair in rest)), key=lambda pair: pair.source)


def _check_size(sources: int, targets: int) -> None:
    if sources * targets > MOST:
        raise UsageError(
            f"names leave open who feeds whom, {sources} modules of the file and {targets} of the model differ too much to be "
            f"compared in groups, and comparing each with each would take some {sources * targets * BYTES / 2**30:.0f} GB of "
            "memory: say how names correspond with rename= (or which layers with layers=)"
        )


def _by_name(source: int, target: int) -> Pair:
    """Return a pair of one name and one shape that was compared with no other: likely, as nothing was asked of its rivals."""
    return Pair(source=source, target=target, fits=True, named=True, name=1.0)


def _without(repeats: Sequence[Repeat], side: int, whole: AbstractSet[tuple[int, Kind]]) -> list[Repeat]:
    return [repeat for repeat in repeats if (side, repeat.kind) not in whole]


def _solve_few(problem: Problem, few: tuple[CutDown, CutDown]) -> list[Pair]:
    extension = _Extension((problem.sources, problem.targets), few)
    extension.check(problem.named)
    ours, theirs = ({n: k for k, n in enumerate(side.at)} for side in few)
    pinned, named = (
        {ours[i]: theirs[j] for i, j in pairs.items() if i in ours and j in theirs}
        for pairs in (problem.pinned, problem.named)
    )
    pairs = _solve_rest(replace(problem, sources=few[0].units, targets=few[1].units, named=named, pinned=pinned))
    return extension.of([_on_whole(pair, few[0].at, few[1].at) for pair in pairs])


def _on_whole(pair: Pair, sources: Sequence[int], targets: Sequence[int]) -> Pair:
    """Return a pair of some units with the numbers that these have on the whole sides."""
    best = pair.rivalry.runner_up
    rivalry = pair.rivalry if best is None else replace(pair.rivalry, runner_up=sources[best])
    return replace(pair, source=sources[pair.source], target=targets[pair.target], rivalry=rivalry)


class DisagreeError(Exception):
    """Members that stay say different things of those that stand for them: these kinds of lists must stay whole."""

    def __init__(self, kinds: Iterable[tuple[int, Kind]]) -> None:
        super().__init__("members of one class are matched in different ways")
        self.kinds = frozenset(kinds)


@dataclass(frozen=True, slots=True)
class Line:
    """Where the units at one place in all members of a class go: the target's list, and the place within its members."""

    repeat: Repeat
    place: int


class _Extension:
    """Pairs of the few, put on all members of the lists, inner lists first."""

    def __init__(self, sides: tuple[Sequence[Unit], Sequence[Unit]], few: tuple[CutDown, CutDown]) -> None:
        self._sides = sides
        self._few = few
        self._places = [
            {path: (repeat, at) for repeat in side.repeats for at, path in enumerate(repeat.members)} for side in few
        ]

    def of(self, pairs: Sequence[Pair]) -> list[Pair]:
        """Return the pairs of all units, given those of the few.

        Raises:
            DisagreeError: the few don't speak with one voice.
        """
        found = {pair.source: pair for pair in pairs}
        clashes: set[tuple[int, Kind]] = set()
        for repeat in reversed(self._few[0].repeats):
            for places in repeat.classes:
                try:
                    self._extend(repeat, places, found)
                except DisagreeError as error:
                    clashes |= error.kinds
        fed = {pair.target for pair in found.values()}
        clashes |= {(1, repeat.kind) for repeat in self._few[1].repeats if not self._is_even(repeat, fed)}
        if clashes or len(fed) < len(found):
            raise DisagreeError(clashes or self._all_kinds())
        return [found[n] for n in sorted(found)]

    def check(self, named: Mapping[int, int]) -> None:
        """Raise DisagreeError where a name leads from a unit that stays to one that is gone, or the reverse."""
        stay = [set(side.at) for side in self._few]
        clashes = {
            (side, repeat.kind)
            for pair in named.items()
            if (pair[0] in stay[0]) != (pair[1] in stay[1])
            for side in (0, 1)
            for repeat, _ in self._around(side, self._sides[side][pair[side]].path)
        }
        if clashes:
            raise DisagreeError(clashes)

    def _extend(self, repeat: Repeat, places: Sequence[int], found: dict[int, Pair]) -> None:
        left = [at for at in places if at in repeat.stay]
        gone = [at for at in places if at not in repeat.stay]
        if not gone:
            return
        for x in range(len(repeat.units[left[0]])):
            few = [found.get(repeat.units[at][x]) for at in left]
            pairs = [pair for pair in few if pair is not None]
            if not pairs:
                continue
            line = self._line(repeat.kinds, left, pairs) if len(pairs) == len(few) else None
            if line is None:
                raise DisagreeError(self._involved(repeat, pairs))
            weakest = min(pairs, key=_strength)
            beside = repeat.units[left[pairs.index(weakest)]]
            best = weakest.rivalry.runner_up
            inside = beside.index(best) if best in beside else None
            moved = _mover(weakest)
            for at in gone:
                own = repeat.units[at]
                rivalry = weakest.rivalry if inside is None else replace(weakest.rivalry, runner_up=own[inside])
                found[own[x]] = moved(source=own[x], target=line.repeat.units[at][line.place], rivalry=rivalry)

    def _line(self, kinds: tuple[int, ...], places: Sequence[int], pairs: Sequence[Pair]) -> Line | None:
        """Return the list whose members at the same places take the units, None where there is no such list."""
        for repeat, at in self._around(1, self._sides[1][pairs[0].target].path):
            if at == places[0] and repeat.kinds == kinds:
                place = repeat.units[at].index(pairs[0].target)
                if all(repeat.units[p][place] == pair.target for pair, p in zip(pairs, places, strict=True)):
                    return Line(repeat, place)
        return None

    def _around(self, side: int, path: str) -> Iterator[tuple[Repeat, int]]:
        """Yield the cut lists that a path lies in a member of, each with that member's place, innermost first."""
        while path:
            place = self._places[side].get(path)
            if place is not None:
                yield place
            path = path.rpartition(".")[0]

    def _is_even(self, repeat: Repeat, fed: set[int]) -> bool:
        """Return whether in each class the members that are gone are filled just where those that stay are."""
        for places in repeat.classes:
            model = places[0]  # the first of a class stays
            pattern = [n in fed for n in repeat.units[model]]
            if any([n in fed for n in repeat.units[at]] != pattern for at in places if at not in repeat.stay):
                return False
        return True

    def _involved(self, repeat: Repeat, pairs: Sequence[Pair]) -> set[tuple[int, Kind]]:
        lists = {(1, r.kind) for p in pairs for r, _ in self._around(1, self._sides[1][p.target].path)}
        return {(0, repeat.kind), *lists}

    def _all_kinds(self) -> set[tuple[int, Kind]]:
        return {(side, repeat.kind) for side in (0, 1) for repeat in self._few[side].repeats}


def _mover(pair: Pair) -> Callable[..., Pair]:
    """Return what makes a pair of other units, of which all else is said that is said of this one."""
    same = {
        one.name: getattr(pair, one.name) for one in fields(pair) if one.name not in ("source", "target", "rivalry")
    }
    return partial(_make_pair, **same)


def _strength(pair: Pair) -> tuple[bool, bool, bool, bool, float]:
    rivalry = pair.rivalry
    return rivalry.told_apart, rivalry.unquestioned, not rivalry.adjoined, pair.in_order, rivalry.margin
