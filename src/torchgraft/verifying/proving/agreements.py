"""Values inside of two runs that agree entry by entry, and the weights that they are made with.

Of tables and heads of another size those rows are compared that the plan fills, and no others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import permutations
from math import inf, prod
from typing import Any, NamedTuple

import torch

from torchgraft.core.plan import Feed, Step
from torchgraft.core.results.recording import Operation, Recording, Value, family
from torchgraft.core.types import Module, Tensor
from torchgraft.ops import run_step
from torchgraft.verifying.divergence import Matches, is_distinctive
from torchgraft.verifying.outputs import max_difference
from torchgraft.verifying.tracing import Run, record_run
from torchgraft.verifying.tracing.capture import CapturingRecorder

# So many values are compared entry by entry, and so often others are looked for in place of those that disagree.
MOST_VALUES = 48
ROUNDS = 3


class Agreement(NamedTuple):
    """A value that both runs have: the modules that it comes out of, weights that it shows, relative difference."""

    module: str
    source_module: str
    weights: frozenset[str]
    relative: float


class Call(NamedTuple):
    """A module, and the input that it is run on."""

    module: Module
    given: Any


class Tolerance(NamedTuple):
    """How near is equal: the rounding of one operation, and the greatest relative difference that passes."""

    rounding: float
    limit: float


class RunPair(NamedTuple):
    """Runs of a source and a target, and which of their values have equal fingerprints. Without a source, its run was recorded."""

    source: Call | None
    target: Call
    source_run: Run
    target_run: Run
    matches: Matches
    tolerance: Tolerance

    @classmethod
    def run(cls, source: Call, target: Call, tolerance: Tolerance) -> RunPair:
        """Run both. A run that fails counts until it fails."""
        return cls.make(source, target, record_run(source.module, source.given), None, tolerance)

    @classmethod
    def make(
        cls, source: Call | None, target: Call, source_run: Run, target_run: Run | None, tolerance: Tolerance
    ) -> RunPair:
        """Match runs; the target's is made where there is none."""
        target_run = target_run or record_run(target.module, target.given)
        matches = Matches(source_run.recording, target_run.recording, tolerance.rounding)
        return cls(source, target, source_run, target_run, matches, tolerance)


def find_agreements(runs: RunPair, wanted: frozenset[str]) -> list[Agreement]:
    """Return values in which two runs agree, as few and as late as show the most of the `wanted` weights.

    Weights are called as in the target. Both sides are run again for the values that seem equal.
    """
    matches = runs.matches
    if runs.source is None:
        return []
    bits = {name: 1 << at for at, name in enumerate(sorted(wanted))}
    made_with = weights_behind(matches.target, bits, visible=True)
    refused: set[int] = set()
    agreeing: dict[int, tuple[int, float]] = {}
    for _ in range(ROUNDS):
        new = [number for number in _latest_matched(matches, made_with, refused) if number not in agreeing]
        if not new:
            break
        values = capture_values(runs.target, new)
        others = capture_values(runs.source, [n for number in new for n in matches.source_of[number]])
        for number in new:
            candidates = {n: others[n] for n in matches.source_of[number] if n in others}
            nearest = _nearest(values.get(number), candidates)
            if nearest is not None and nearest[1] <= runs.tolerance.limit:
                agreeing[number] = nearest
            else:
                refused.add(number)
    return [
        Agreement(
            module=producing_module(matches.target, number),
            source_module=producing_module(matches.source, agreeing[number][0]),
            weights=frozenset(name for name, bit in bits.items() if made_with[number] & bit),
            relative=agreeing[number][1],
        )
        for number in _latest_matched(matches, made_with, refused)
        if number in agreeing
    ]


def weights_behind(recording: Recording, bits: Mapping[str, int], *, visible: bool) -> list[int]:
    """Return for each value of a run the bits of the weights behind it; with `visible`, those that zeros don't hide.

    A result of zeros shows nothing of what was multiplied by zero to get it.
    """
    behind = [sum(bits.get(name, 0) for name in dict.fromkeys(value.weights)) for value in recording.values]
    for operation in recording.operations:
        union = 0
        for number in operation.inputs:
            union |= behind[number]
        for number in operation.outputs:
            behind[number] |= 0 if visible and is_zero(recording.values[number]) else union
    return behind


def is_zero(value: Value) -> bool:
    """Return whether a value of the run is zero throughout: a weight that is multiplied by it may be any."""
    found = value.fingerprint
    return value.live and found is not None and found.least == found.greatest == found.huge == 0


def _latest_matched(matches: Matches, made_with: list[int], refused: set[int]) -> list[int]:
    """Return matched values, from the end of the run on, each of which shows weights that those after it don't."""
    chosen: list[int] = []
    covered = 0
    for number in sorted(matches.source_of, reverse=True):
        value = matches.target.values[number]
        if number in refused or value.op < 0 or not is_distinctive(value):
            continue
        if made_with[number] & ~covered:
            chosen.append(number)
            covered |= made_with[number]
            if len(chosen) == MOST_VALUES:
                break
    return chosen


def capture_values(call: Call, numbers: Sequence[int]) -> Mapping[int, Tensor]:
    """Run a module and return copies of some of its values by number."""
    kept: dict[int, Tensor] = {}
    record_run(call.module, call.given, kind=partial(CapturingRecorder, wanted=frozenset(numbers), kept=kept))
    return kept


def _nearest(value: Tensor | None, candidates: Mapping[int, Tensor]) -> tuple[int, float] | None:
    """Return which of several values is nearest, and its relative difference: the first where several are."""
    if value is None:
        return None
    found = [
        (number, min((max_difference(form, value)[1] for form in _in_shape(other, value.shape)), default=inf))
        for number, other in candidates.items()
    ]
    return min(found, key=lambda pair: pair[1], default=None)


def _in_shape(value: Tensor, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yield a value in another shape: as it is, or with its axes in each order that gives that shape."""
    if value.shape == shape:
        yield value
        return
    if value.numel() != prod(shape) or value.dim() > 5:
        return
    for order in permutations(range(value.dim())):
        yield value.permute(order).reshape(shape)


def producing_module(recording: Recording, number: int) -> str:
    """Return the path of the module that made a value."""
    at = recording.values[number].op
    return recording.operations[at].module if at >= 0 else ""


class MovedRows(NamedTuple):
    """Which rows of a table come from which of the source's: `rows[i]` from `sources[i]`; and how many rows each side has."""

    rows: tuple[int, ...]
    sources: tuple[int, ...]
    size: int
    source_size: int


def moved_rows(step: Step, shapes: Mapping[str, tuple[int, ...]]) -> MovedRows | None:
    """Return which rows a step moves where, None where all keep their places or it does something else.

    The step is carried out on a table whose entries are the numbers of their rows.
    """
    known, size = step.known, step.slot.spec.shape[0] if step.slot.spec.shape else 0
    shape = shapes.get(step.feeds[0].key) if len(step.feeds) == 1 and not step.base else None
    if not shape or not size or (known is not None and known.dim != 0):
        return None

    def numbered(_: Feed) -> Tensor:
        numbers = torch.arange(shape[0], dtype=torch.float64, device="cpu")
        return numbers.reshape(-1, *[1] * (len(shape) - 1)).expand(shape).clone()

    made = run_step(step, numbered)[0]
    written = step.rows.indices if step.rows else range(size)
    flat = made.reshape(len(made), -1) if len(made) == len(written) and made.numel() else None
    if flat is None or not bool((flat == flat[:, :1]).all()):
        return None
    source_of = dict(zip(written, flat[:, 0].tolist(), strict=True))
    rows = known.indices if known else tuple(range(size))
    sources = [source_of[row] for row in rows]
    if not all(row.is_integer() for row in sources) or (size == shape[0] and sources == list(rows)):
        return None
    return MovedRows(rows, tuple(map(int, sources)), size, shape[0])


def find_row_agreements(runs: RunPair, moved: Mapping[str, MovedRows]) -> Iterator[Agreement]:
    """Yield results of operations with these weights that agree in the rows that are filled.

    The operation must do the same as one of the source, on values that both runs have. Both sides are run once more.
    """
    pairs = list(_row_candidates(runs.matches, moved)) if moved else []
    if not pairs or runs.source is None:
        return
    targets = capture_values(runs.target, [pair.number for pair in pairs])
    sources = capture_values(runs.source, [pair.source_number for pair in pairs])
    for pair in pairs:
        if pair.number not in targets or pair.source_number not in sources:
            continue
        relative = _row_difference(targets[pair.number], sources[pair.source_number], pair.moved)
        if relative is not None and relative <= runs.tolerance.limit:
            yield Agreement(
                module=producing_module(runs.matches.target, pair.number),
                source_module=producing_module(runs.matches.source, pair.source_number),
                weights=pair.weights,
                relative=relative,
            )


class _RowCandidate(NamedTuple):
    """Values of the target and of the source of which some rows may agree, and the weights that would be shown."""

    number: int
    source_number: int
    moved: MovedRows
    weights: frozenset[str]


def _row_candidates(matches: Matches, moved: Mapping[str, MovedRows]) -> Iterator[_RowCandidate]:
    target = matches.target
    for operation in target.operations:
        used = {w for n in operation.inputs if not target.values[n].live for w in target.values[n].weights}
        weights = frozenset(used & moved.keys())
        if len({moved[weight] for weight in weights}) == 1:
            rows = moved[next(iter(weights))]
            for other in matches.source.operations:
                if _does_the_same(matches, operation, other):
                    yield _RowCandidate(operation.outputs[0], other.outputs[0], rows, weights)


def _does_the_same(matches: Matches, operation: Operation, other: Operation) -> bool:
    """Whether two operations, of the target and of the source, are of one kind and work on the same activations."""
    inputs = [n for n in operation.inputs if matches.target.values[n].live]
    source_inputs = [n for n in other.inputs if matches.source.values[n].live]
    return (
        bool(inputs)
        and len(inputs) == len(source_inputs)
        and family(operation.name) == family(other.name)
        and all(b in matches.source_of.get(a, ()) for a, b in zip(inputs, source_inputs, strict=True))
    )


def _row_difference(target: Tensor, source: Tensor, moved: MovedRows) -> float | None:
    """Return how far the filled rows are apart; None where no axis is as long as the tables have rows."""
    if target.dim() != source.dim():
        return None
    sizes = list(zip(target.shape, source.shape, strict=True))
    axes = [axis for axis, pair in enumerate(sizes) if pair == (moved.size, moved.source_size)]
    if not axes:
        return None
    rows = torch.tensor(moved.rows, dtype=torch.long, device=target.device)
    sources = torch.tensor(moved.sources, dtype=torch.long, device=source.device)
    return max_difference(source.index_select(axes[-1], sources), target.index_select(axes[-1], rows))[1]
