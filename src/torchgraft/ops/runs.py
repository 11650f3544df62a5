"""Runs of elements: the result of an op as stretches of its inputs, for reading files without running the op."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

from torchgraft.core.specs import Shape


class Run(NamedTuple):
    """Elements `start` to `start + size` of input number `source`, in C order."""

    source: int
    start: int
    size: int


def cut(runs: Sequence[Run], start: int, stop: int) -> list[Run]:
    """Return the elements `start` to `stop` of a tensor that consists of `runs`."""
    out: list[Run] = []
    at = 0
    for run in runs:
        low, high = max(start, at), min(stop, at + run.size)
        if low < high:
            out.append(Run(run.source, run.start + low - at, high - low))
        at += run.size
    return out


def joined(parts: Iterable[Sequence[Run]]) -> list[Run]:
    """Return the runs one after the other, those that continue each other as one."""
    out: list[Run] = []
    for part in parts:
        for run in part:
            last = out[-1] if out else None
            if last is not None and last.source == run.source and last.start + last.size == run.start:
                out[-1] = Run(run.source, last.start, last.size + run.size)
            else:
                out.append(run)
    return out


def inner(shape: Shape, dim: int) -> int | None:
    """Return the number of elements in a row along `dim`, if those rows follow each other without gaps; else None."""
    return prod(shape[dim + 1 :]) if prod(shape[:dim]) == 1 else None


def picked(shape: Shape, dim: int, indices: Iterable[int], runs: Sequence[Run]) -> list[Run] | None:
    """Return the rows `indices` along `dim` of a tensor of `shape`, None where a row has gaps."""
    row = inner(shape, dim)
    if row is None:
        return None
    return joined(cut(runs, i * row, (i + 1) * row) for i in indices)
