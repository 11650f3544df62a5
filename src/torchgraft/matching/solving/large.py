"""Large models: what repeats is matched once, by the same judge, and said of all repeats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace

from torchgraft.core.errors import UsageError
from torchgraft.matching.evidence.repeats import Few, Kind, Repeat, cut_down, find_repeats
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.parts.units import Unit
from torchgraft.matching.solving.extend import DisagreeError, Extension
from torchgraft.matching.solving.solve import solve

# Up to so many possible pairs all are looked at: to cut them down would take as long.
AT_ONCE = 10_000
# More pairs than these are not compared: at about so many bytes each, memory would run out and time with it.
MOST, BYTES = 40_000_000, 60


def solve_large(
    sources: Sequence[Unit],
    targets: Sequence[Unit],
    pinned: Mapping[int, int],
    named: Mapping[int, int],
    *,
    unordered: bool = False,
) -> list[Pair]:
    """Return the pairs of the best reading, as `solve` does; time grows with what is different, not with what repeats.

    Lists that are alike on both sides, place by place, are cut down to a few members of each class. Where those turn out to
    speak for the others no longer (two of a class go different ways), these lists are taken whole in another round.

    Raises:
        UsageError: too much differs to compare each with each.
    """
    if len(sources) * len(targets) <= AT_ONCE:
        return solve(sources, targets, pinned, named, unordered=unordered)
    taken = set(named.values()), set(pinned.values())
    repeats = (
        find_repeats(sources, lambda n: (n in named, n in pinned)),
        find_repeats(targets, lambda n: (n in taken[0], n in taken[1])),
    )
    whole: frozenset[tuple[int, Kind]] = frozenset()
    while True:
        few = cut_down((sources, targets), (_without(repeats[0], 0, whole), _without(repeats[1], 1, whole)))
        if few is None:
            _check_size(len(sources), len(targets))
            return solve(sources, targets, pinned, named, unordered=unordered)
        try:
            return _solve_few((sources, targets), few, pinned, named, unordered=unordered)
        except DisagreeError as error:
            whole |= error.kinds


def _check_size(sources: int, targets: int) -> None:
    if sources * targets > MOST:
        raise UsageError(
            f"names leave open who feeds whom, {sources} modules in the file and {targets} in the model repeat in "
            f"different ways, and comparing each with each would take some {sources * targets * BYTES / 2**30:.0f} GB of "
            "memory: say how names correspond with rename= (or which layers with layers=)"
        )


def _without(repeats: Sequence[Repeat], side: int, whole: AbstractSet[tuple[int, Kind]]) -> list[Repeat]:
    return [repeat for repeat in repeats if (side, repeat.kind) not in whole]


def _solve_few(
    sides: tuple[Sequence[Unit], Sequence[Unit]],
    few: tuple[Few, Few],
    pinned: Mapping[int, int],
    named: Mapping[int, int],
    *,
    unordered: bool,
) -> list[Pair]:
    extension = Extension(sides, few)
    extension.check(named)
    ours, theirs = ({n: k for k, n in enumerate(side.at)} for side in few)
    pins, names = (
        {ours[i]: theirs[j] for i, j in pairs.items() if i in ours and j in theirs} for pairs in (pinned, named)
    )
    _check_size(len(few[0].units), len(few[1].units))
    pairs = solve(few[0].units, few[1].units, pins, names, unordered=unordered)
    return extension.all([_on_whole(pair, few) for pair in pairs])


def _on_whole(pair: Pair, few: tuple[Few, Few]) -> Pair:
    """Return a pair of the few with the numbers of the whole sides."""
    rival = None if pair.rival is None else few[0].at[pair.rival]
    return replace(pair, source=few[0].at[pair.source], target=few[1].at[pair.target], rival=rival)
