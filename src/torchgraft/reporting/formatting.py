"""Numbers, sizes, shapes and durations as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torchgraft.core.formatting import percent, runs_words, tensors
from torchgraft.core.plan import Plan, Step
from torchgraft.core.specs import Shape

_STEPS = ("", "k", "M", "G", "T", "P", "E")


def size(nbytes: int) -> str:
    """Return a number of bytes in decimal units: `97.7 MB`."""
    return scaled(nbytes, "B")


def many(count: int) -> str:
    """Return a number of elements: `25.6 M`."""
    return scaled(count, "").rstrip()


def scaled(number: float, unit: str) -> str:
    """Return three figures and a decimal unit."""
    step = 0
    while number >= 999.5 and step < len(_STEPS) - 1:
        number /= 1000
        step += 1
    if step == 0:
        return f"{int(number)} {unit}"
    return f"{number:.{2 if number < 9.995 else 1 if number < 99.95 else 0}f} {_STEPS[step]}{unit}"


def sizes(part: int, whole: int) -> str:
    """Return `97.7 MB`, or `97.7 MB of 99.5 MB` when the two differ in three figures."""
    return size(whole) if size(part) == size(whole) else f"{size(part)} of {size(whole)}"


def figures(count: int, numel: int) -> str:
    """Return `2 tensors, 20.5 k elements`."""
    return f"{tensors(count)}, {many(numel)} element{'' if numel == 1 else 's'}"


def shape_words(shape: Sequence[int | str] | None) -> str:
    """Return `[64, 3, 7, 7]`, or nothing where no shape is known."""
    return "" if shape is None else "[" + ", ".join(map(str, shape)) + "]"


def shapes_words(shapes: Iterable[Sequence[int | str] | None]) -> str:
    """Return the shapes that one pattern of names stands for, joined by "and"; one where all are the same."""
    words = list(map(shape_words, shapes))
    return " and ".join(words[:1] if len(set(words)) == 1 else words)


def seconds(value: float) -> str:
    """Return a duration: `0.31 s`, `12 ms`."""
    return f"{value * 1000:.0f} ms" if value < 0.1 else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def coverage_words(plan: Plan) -> str:
    """Return how much of both sides finds a place: elements and bytes of the model, elements of the checkpoint."""
    cover = plan.coverage
    placed = sizes(cover.target_bytes_filled, cover.target_bytes)
    return f"{percent(cover.target)} of the model's elements ({placed}), {percent(cover.source)} of the checkpoint's"


def part_words(step: Step) -> str:
    """Return which part of a tensor came from the checkpoint, `rows 0-9 of 12 from the file`; nothing where all did."""
    known = step.known
    if known is None:
        return ""
    shape = step.slot.spec.shape
    return f"{_axis(shape, known.dim)} {runs_words(sorted(known.indices))} of {shape[known.dim]} from the file"


def _axis(shape: Shape, dim: int) -> str:
    """Return what indices along `dim` are called: rows of tables (also of [1, rows, width]), columns, input channels."""
    if all(size == 1 for size in shape[:dim]) and (dim == 0 or dim == len(shape) - 2):
        return "rows"
    return "columns" if len(shape) == 2 else "input channels" if dim == 1 else f"along dim {dim},"
