"""From evidence to pairs: align in order, let neighbours and shared rules vote, assign, and repeat to a fixed point."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torchgraft.matching.evidence.blocks import block_votes, tail_votes
from torchgraft.matching.evidence.companions import norms_with_layers
from torchgraft.matching.evidence.order import behind_layers, is_orderly, sequences_of
from torchgraft.matching.evidence.scores import FITS, NEVER, STRANGE, Evidence, gather
from torchgraft.matching.evidence.trust import outermost_list
from torchgraft.matching.judging.judge import Context, Pair, judged
from torchgraft.matching.names.lists import counted, stem
from torchgraft.matching.parts.units import Unit
from torchgraft.matching.solving.algorithms import align, assign
from torchgraft.matching.solving.block_rules import by_block_rules
from torchgraft.matching.solving.exchanges import (
    branches_by_words,
    modules_together,
    norms_after_layers,
    uncrossed,
    upright,
)
from torchgraft.matching.solving.reversed import opposite, with_lists_reversed
from torchgraft.matching.solving.shifts import Shifts, find_shifts

ROUNDS = 4
# What remains of the weight of order where a side doesn't come as a model registers it.
UNORDERED = 0.2
# Weights of the evidence in one score. A name can't outvote a shape; neighbours and rules outvote a single name.
NAME, CLASH, RARE, PINNED, LIKENESS = 1.5, 1.2, 0.6, 1.0, 1.5
BLOCK, TAIL, ORDER, SAME_NUMBER, UNEVEN = 1.0, 1.0, 0.5, 0.8, 0.4
# What it costs to leave a list that both sides have for another one that both have.
CROSSING = 0.5
# What shapes of other sizes cost, and how alike names must be at least for such a pair; and what shapes that fit only so cost
# once all is voted on.
OTHER_SIZES, TELLING, AT_LAST = 0.6, 0.8, 0.5
# So many units make a block of which one is not the whole.
WHOLE_BLOCK = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Two sides to be paired, and what their names say.

    `named` maps sources to targets of the same name under the naming rule, `pinned` those among them that names may
    decide. Order counts for little unless both sides come as `registered`.
    """

    sources: Sequence[Unit]
    targets: Sequence[Unit]
    named: Mapping[int, int]
    pinned: Mapping[int, int]
    registered: tuple[bool, bool]


def solve(problem: Problem) -> list[Pair]:
    """Return the pairs of the best reading."""
    sides = sources, targets = problem.sources, problem.targets
    if not sources or not targets:
        return []
    evidence = gather(*sides, registered=all(problem.registered))
    shifts = find_shifts(problem.named, problem.pinned, *sides, evidence.fits)
    alone = _scores(evidence, problem, shifts)
    order = 1.0 if all(problem.registered) else UNORDERED

    def paired(total: np.ndarray, path: set[tuple[int, int]]) -> list[tuple[int, int]]:
        return by_block_rules(uncrossed(_assigned(total), alone, *sides, order), path, alone, *sides)

    votes = np.zeros_like(alone)
    parts = votes, votes
    pairs: list[tuple[int, int]] = []
    path: set[tuple[int, int]] = set()
    for _ in range(ROUNDS):
        path = set(align(alone + votes))
        before, pairs = pairs, paired(alone + votes + order * _marks(path, alone.shape), path)
        parts = block_votes(pairs, *sides), tail_votes(pairs, *sides)
        votes = BLOCK * parts[0] + TAIL * parts[1]
        if pairs == before:
            break
    total = alone + votes + order * _marks(path, alone.shape)
    total[evidence.fits == 0] -= AT_LAST
    final = branches_by_words(upright(paired(total, path), evidence, *sides), alone, evidence, sides)
    final = with_lists_reversed(modules_together(final, alone, evidence.rare, *sides), alone, *sides)
    if not all(problem.registered):
        final = norms_after_layers(final, alone, *sides)
    final = without_isolated(final, evidence.names, *sides)
    return judged(final, total, evidence, parts, _context(problem, path, final, shifts))


def _context(problem: Problem, path: set[tuple[int, int]], final: Sequence[tuple[int, int]], shifts: Shifts) -> Context:
    """Return what the `final` pairs are judged against; `path` has those on the alignment."""
    sides = sources, targets = problem.sources, problem.targets
    registered = all(problem.registered)
    return Context(
        path=path,
        named=problem.named,
        pinned=problem.pinned,
        regions=([_region(u.path) for u in sources], [_region(u.path) for u in targets]),
        sequences=sequences_of(*sides, problem.registered),
        orderly=is_orderly(path, *sides),
        contested=shifts.contested,
        partners={*shifts.partners, *behind_layers(final, *sides)} if registered else shifts.partners,
        opposite=opposite(final, *sides),
        beside={} if registered else norms_with_layers(final, *sides),
    )


def _region(path: str) -> str:
    """Return the part of a network that a module lies in: its first segment; members of one list there are together."""
    first = path.partition(".")[0]
    head = stem(first)
    return first if head is None else head


def _scores(evidence: Evidence, problem: Problem, shifts: Shifts) -> np.ndarray:
    """Return what speaks for each pair alone."""
    base = np.where(evidence.fits, 1.0, 0.0).astype(np.float32)
    score = base + NAME * evidence.names + RARE * evidence.rare - CLASH * evidence.clash
    score -= UNEVEN * evidence.uneven
    score += LIKENESS * evidence.likeness
    score += SAME_NUMBER * _same_numbers(problem.sources, problem.targets, shifts)
    score -= CROSSING * _between_lists(problem.sources, problem.targets)
    for i, j in problem.pinned.items():
        score[i, j] += PINNED
    soft = evidence.soft & ((evidence.names > TELLING) | (_marks(set(problem.pinned.items()), score.shape) > 0))
    score[soft] -= OTHER_SIZES
    score[~(evidence.fits | soft)] = NEVER
    return score


def _between_lists(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return where two units stand in two lists, each of which both sides have."""
    ours, theirs = (np.array([outermost_list(u) for u in units], object) for units in (sources, targets))
    both = {*ours} & {*theirs} - {""}
    here, there = (np.array([one in both for one in side], bool) for side in (ours, theirs))
    between: np.ndarray = (here[:, None] & there) & (ours[:, None] != theirs)
    return between


def _same_numbers(sources: Sequence[Unit], targets: Sequence[Unit], shifts: Shifts) -> np.ndarray:
    ids: dict[tuple[int, ...], int] = {}
    rows, columns = (
        np.array([ids.setdefault(n, len(ids)) for n in counted([u.path for u in units])])
        for units in (sources, targets)
    )
    same: np.ndarray = rows[:, None] == columns
    for pairs, said in ((shifts.misled, False), (shifts.partners, True)):
        for i, j in pairs:
            same[i, j] = said
    return same.astype(np.float32)


def _marks(pairs: set[tuple[int, int]], shape: tuple[int, int]) -> np.ndarray:
    marks = np.zeros(shape, np.float32)
    if pairs:
        rows, columns = np.array(sorted(pairs)).T
        marks[rows, columns] = ORDER
    return marks


def _assigned(scores: np.ndarray) -> list[tuple[int, int]]:
    rows, columns = assign(np.maximum(scores, 0.0))
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if scores[i, j] > FITS]


def without_isolated(
    pairs: Sequence[tuple[int, int]], names: np.ndarray, sources: Sequence[Unit], targets: Sequence[Unit]
) -> list[tuple[int, int]]:
    """Return the pairs without those that nothing but shape speaks for: one alone in its block, with one outside all lists.

    Where a model has more layers than the file, something that is left over elsewhere may have the shapes of a part of
    them. A part whose block stays free otherwise is not what it is.
    """
    alone = _alone_in_block(sources, (i for i, _ in pairs)), _alone_in_block(targets, (j for _, j in pairs))
    return [
        (i, j)
        for i, j in pairs
        if names[i, j] >= STRANGE
        or not ((i in alone[0] and not targets[j].blocks) or (j in alone[1] and not sources[i].blocks))
    ]


def _alone_in_block(units: Sequence[Unit], paired: Iterable[int]) -> set[int]:
    """Return the paired units whose blocks have many units and no other one that is paired."""
    sizes = Counter(unit.block for unit in units)
    held: dict[str, list[int]] = defaultdict(list)
    for at in paired:
        held[units[at].block].append(at)
    return {found[0] for block, found in held.items() if block and len(found) == 1 and sizes[block] >= WHOLE_BLOCK}
