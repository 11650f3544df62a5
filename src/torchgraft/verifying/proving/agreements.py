"""Values inside of two runs that agree entry by entry, and the weights that they are made with.

Of tables and heads of another size those rows are compared that the plan fills, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import permutations
from math import prod
from typing import Any, NamedTuple

import torch

from torchgraft.core.families import family
from torchgraft.core.plan import Feed, Step
from torchgraft.core.results.recording import Operation, Recording
from torchgraft.core.types import Module, Tensor
from torchgraft.ops import computed
from torchgraft.verifying.divergence import Matches
from torchgraft.verifying.outputs import distance
from torchgraft.verifying.tracing import Run, record_run
from torchgraft.verifying.tracing.capture import Capturing

# So many values are compared entry by entry, and so often others are looked for in place of those that disagree.
MOST_VALUES = 48
ROUNDS = 3


class Agreed(NamedTuple):
    """A value of the target's run that the source's run has, too: where both come out, weights, relative difference."""

    module: str
    source_module: str
    weights: frozenset[str]
    relative: float


class Side(NamedTuple):
    """A module, and what it is run on."""

    module: Module
    given: Any


class Measure(NamedTuple):
    """How near is equal: the rounding of one operation, and the greatest relative difference that passes."""

    floor: float
    limit: float


class Runs(NamedTuple):
    """Runs of a source and a target, and which of their values look the same. Without a source, its run was recorded."""

    source: Side | None
    target: Side
    theirs: Run
    mine: Run
    matches: Matches
    measure: Measure

    @classmethod
    def of(cls, source: Side, target: Side, measure: Measure) -> Runs:
        """Run both. A run that fails counts until it fails."""
        return cls.compared(source, target, (record_run(source.module, source.given), None), measure)

    @classmethod
    def compared(cls, source: Side | None, target: Side, ran: tuple[Run, Run | None], measure: Measure) -> Runs:
        """Compare runs (of the source, of the target); the target's is made where there is none."""
        theirs, mine = ran[0], ran[1] or record_run(target.module, target.given)
        matches = Matches(theirs.recording, mine.recording, measure.floor)
        return cls(source, target, theirs, mine, matches, measure)


def agreements(runs: Runs, wanted: frozenset[str]) -> list[Agreed]:
    """Return values in which two runs agree, as few and as late as show the most of the `wanted` weights.

    Weights are called as in the target. Both sides are run again for the values that seem equal.
    """
    matches = runs.matches
    if runs.source is None:
        return []
    bits = {name: 1 << at for at, name in enumerate(sorted(wanted))}
    made_with = weights_behind(matches.target, bits)
    refused: set[int] = set()
    held: dict[int, tuple[int, float]] = {}
    for _ in range(ROUNDS):
        if not (new := [number for number in _latest(matches, made_with, refused) if number not in held]):
            break
        values = captured(runs.target, new)
        others = captured(runs.source, [n for number in new for n in matches.found[number]])
        for number in new:
            found = _nearest(values.get(number), [(n, others.get(n)) for n in matches.found[number]])
            if found is not None and found[1] <= runs.measure.limit:
                held[number] = found
            else:
                refused.add(number)
    return [
        Agreed(
            module=module_of(matches.target, number), source_module=module_of(matches.source, held[number][0]),
            weights=frozenset(name for name, bit in bits.items() if made_with[number] & bit),
            relative=held[number][1],
        )
        for number in _latest(matches, made_with, refused) if number in held
    ]  # fmt: skip


def weights_behind(recording: Recording, bits: Mapping[str, int]) -> list[int]:
    """Return for each value of a run the bits of the weights that it was made with."""
    behind = [sum(bits.get(name, 0) for name in dict.fromkeys(value.weights)) for value in recording.values]
    for operation in recording.operations:
        union = 0
        for number in operation.inputs:
            union |= behind[number]
        for number in operation.outputs:
            behind[number] |= union
    return behind


def _latest(matches: Matches, made_with: list[int], refused: set[int]) -> list[int]:
    """Return matched values, from the end of the run on, each of which shows weights that those after it don't."""
    chosen: list[int] = []
    shown = 0
    for number in sorted(matches.found, reverse=True):
        value = matches.target.values[number]
        look = value.fingerprint
        if number in refused or value.op < 0 or not value.live or look is None or look.is_plain:
            continue
        if made_with[number] & ~shown:
            chosen.append(number)
            shown |= made_with[number]
            if len(chosen) == MOST_VALUES:
                break
    return chosen


def captured(side: Side, numbers: list[int]) -> Mapping[int, Tensor]:
    """Run a module and return copies of some of its values by number."""
    kept: dict[int, Tensor] = {}
    record_run(side.module, side.given, kind=partial(Capturing, wanted=frozenset(numbers), kept=kept))
    return kept


def _nearest(value: Tensor | None, others: list[tuple[int, Tensor | None]]) -> tuple[int, float] | None:
    """Return which of several values is nearest, and how near: the first where several are."""
    if value is None:
        return None
    found = [
        (number, min(distance(form, value)[1] for form in forms))
        for number, other in others
        if other is not None and (forms := list(_laid_out(other, value.shape)))
    ]
    return min(found, key=lambda pair: pair[1], default=None)


def _laid_out(value: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield a value in another shape: itself where it has that shape; else in the orders of axes that come to it."""
    if value.shape == shape:
        yield value
        return
    if value.numel() != prod(shape) or value.dim() > 5:
        return
    for order in permutations(range(value.dim())):
        yield value.permute(order).reshape(shape)


def module_of(recording: Recording, number: int) -> str:
    """Return the path of the module that made a value."""
    at = recording.values[number].op
    return recording.operations[at].module if at >= 0 else ""


class Picked(NamedTuple):
    """Which rows of a table come from which rows of the source's: `rows[i]` from `sources[i]`, of so many on each side."""

    rows: tuple[int, ...]
    sources: tuple[int, ...]
    size: int
    source_size: int


def picked_rows(step: Step, shapes: Mapping[str, tuple[int, ...]]) -> Picked | None:
    """Return which rows a step moves where, None where it moves all to their own places or does something else.

    The step is carried out on a table whose entries are the numbers of their rows.
    """
    known, size = step.known, step.slot.spec.shape[0] if step.slot.spec.shape else 0
    shape = shapes.get(step.feeds[0].key) if len(step.feeds) == 1 and not step.base else None
    if not shape or not size or (known is not None and known.dim != 0):
        return None

    def numbered(_: Feed) -> torch.Tensor:
        numbers = torch.arange(shape[0], dtype=torch.float64, device="cpu")
        return numbers.reshape(-1, *[1] * (len(shape) - 1)).expand(shape).clone()

    made = computed(step, numbered)[0]
    written = step.rows.indices if step.rows else range(size)
    flat = made.reshape(len(made), -1) if len(made) == len(written) and made.numel() else None
    if flat is None or not bool((flat == flat[:, :1]).all()):
        return None
    source_of = dict(zip(written, flat[:, 0].tolist(), strict=True))
    rows = known.indices if known else tuple(range(size))
    sources = [source_of[row] for row in rows]
    if not all(row.is_integer() for row in sources) or (size == shape[0] and sources == list(rows)):
        return None
    return Picked(rows, tuple(map(int, sources)), size, shape[0])


def row_agreements(runs: Runs, picks: Mapping[str, Picked]) -> Iterator[Agreed]:
    """Yield results of operations with picked weights that agree in the rows that are filled.

    The operation must do the same as one of the source, on values that both runs have. Both sides are run once more.
    """
    target, source = runs.matches.target, runs.matches.source
    pairs = list(_candidates(runs, picks)) if picks else []
    if not pairs or runs.source is None:
        return
    mine = captured(runs.target, [pair.mine for pair in pairs])
    theirs = captured(runs.source, [pair.theirs for pair in pairs])
    for pair in pairs:
        if pair.mine not in mine or pair.theirs not in theirs:
            continue
        relative = _apart(mine[pair.mine], theirs[pair.theirs], pair.pick)
        if relative is not None and relative <= runs.measure.limit:
            yield Agreed(module_of(target, pair.mine), module_of(source, pair.theirs), pair.weights, relative)


class _Candidate(NamedTuple):
    """Values of the target and of the source of which some rows may agree, and the weights that would be shown."""

    mine: int
    theirs: int
    pick: Picked
    weights: frozenset[str]


def _candidates(runs: Runs, picks: Mapping[str, Picked]) -> Iterator[_Candidate]:
    target, source = runs.matches.target, runs.matches.source
    for operation in target.operations:
        used = {w for n in operation.inputs if not target.values[n].live for w in target.values[n].weights}
        weights = frozenset(used & picks.keys())
        if len({picks[weight] for weight in weights}) == 1:
            pick = picks[next(iter(weights))]
            for other in source.operations:
                if _does_the_same(runs, operation, other):
                    yield _Candidate(operation.outputs[0], other.outputs[0], pick, weights)


def _does_the_same(runs: Runs, operation: Operation, other: Operation) -> bool:
    """Whether two operations are of one kind and work on the same activations."""
    target, source, found = runs.matches.target, runs.matches.source, runs.matches.found
    mine = [n for n in operation.inputs if target.values[n].live]
    theirs = [n for n in other.inputs if source.values[n].live]
    return (
        bool(mine)
        and len(mine) == len(theirs)
        and family(operation.name) == family(other.name)
        and all(b in found.get(a, ()) for a, b in zip(mine, theirs, strict=True))
    )


def _apart(mine: torch.Tensor, theirs: torch.Tensor, pick: Picked) -> float | None:
    """Return how far the picked rows are apart; None where no axis has as many entries as the tables have rows."""
    if mine.dim() != theirs.dim():
        return None
    axes = [
        axis for axis in range(mine.dim()) if (mine.shape[axis], theirs.shape[axis]) == (pick.size, pick.source_size)
    ]
    if not axes:
        return None
    rows, sources = (
        torch.tensor(numbers, dtype=torch.long, device=value.device)
        for numbers, value in ((pick.rows, mine), (pick.sources, theirs))
    )
    return distance(theirs.index_select(axes[-1], sources), mine.index_select(axes[-1], rows))[1]
