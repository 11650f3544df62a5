"""Outputs of tables and heads of another size: the rows that the plan fills are compared, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch

from torchgraft.core.families import family
from torchgraft.core.plan import Feed, Step
from torchgraft.core.results.recording import Operation
from torchgraft.ops import computed
from torchgraft.verifying.comparing import distance
from torchgraft.verifying.proving.agreeing import Agreed, Runs, captured, module_of


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
