"""Tables that enter into operations on both sides and differ: rotary positions, biases, masks that no file holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchgraft.core.families import family
from torchgraft.core.results.verification import Cause
from torchgraft.verifying.explaining.words import modules_of, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torchgraft.core.results.recording import Operation, Recording
    from torchgraft.verifying.divergence import Matches


def tables(matches: Matches, mine: Operation, other: Operation) -> Iterator[Cause]:
    """Yield tables that enter on both sides and differ: rotary positions, biases, masks that no file holds."""
    a, b = (_table(rec, op) for rec, op in ((matches.target, mine), (matches.source, other)))
    if a is None or b is None:
        return
    rotary = any(
        word in f"{op.module} {op.kind} {' '.join(names)}".lower()
        for op, names in ((mine, a[1]), (other, b[1]))
        for word in ("rot", "rope", "inv_freq")
    ) or {"cos", "sin"} & {*a[2], *b[2]}
    bases = [_bases(rec, number) for rec, number in ((matches.target, a[0]), (matches.source, b[0]))]
    looks = [rec.values[number].fingerprint for rec, number in ((matches.target, a[0]), (matches.source, b[0]))]
    if looks[0] is None or looks[1] is None:
        return
    where = modules_of(mine, other)
    kind = "rotary" if rotary else "buffer"
    if looks[0].distance(looks[1]) <= 1e-5:
        if family(mine.name) in ("product", "sum") and mine.shapes and other.shapes:
            yield Cause(
                kind=kind,
                text=f"{words_of(mine)} uses a table of the same entries in another order",
                remedy="use the source's layout of pairs (halves or interleaved), or reorder the rows of q and k",
                **where,
            )
        return
    if bases[0] and bases[1] and bases[0] != bases[1]:
        text = (
            f"{words_of(mine)} uses a table made with base {_listed(bases[0])}, the source one with {_listed(bases[1])}"
        )
        yield Cause(
            kind=kind,
            text=text,
            target=bases[0],
            source=bases[1],
            remedy=f"build the model with base {_listed(bases[1])}",
            **where,
        )
        return
    names = [", ".join(names) or "a computed table" for _, names, _ in (a, b)]
    yield Cause(
        kind=kind,
        text=f"{words_of(mine)} uses {names[0]}, whose values differ from {names[1]} of the source",
        remedy="build both with the same settings, or copy the table by hand",
        target=names[0],
        source=names[1],
        **where,
    )


def _table(recording: Recording, op: Operation) -> tuple[int, list[str], set[str]] | None:
    """Return the input that doesn't depend on the model's inputs and is no parameter: number, buffers, operations."""
    if family(op.name) not in ("product", "sum", "attention", "where", "matrix product"):
        return None
    for number in op.inputs:
        value = recording.values[number]
        if value.live or value.fingerprint is None or value.op < 0:
            continue
        return number, list(value.weights), {o.name for o in _ancestors(recording, number)}
    return None


def _ancestors(recording: Recording, number: int) -> list[Operation]:
    out: dict[int, Operation] = {}
    stack = [number]
    while stack:
        at = recording.values[stack.pop()].op
        if at >= 0 and at not in out:
            out[at] = recording.operations[at]
            stack.extend(recording.operations[at].inputs)
    return list(out.values())


def _bases(recording: Recording, number: int) -> tuple[object, ...]:
    """Return the numbers that are raised to powers or taken logarithms of in making a table."""
    found: list[object] = []
    for op in _ancestors(recording, number):
        if op.name == "pow":
            found.extend(v for k, v in op.settings.items() if k == "self")
        elif op.name in ("mul", "div", "exp"):
            found.extend(v for k, v in op.settings.items() if k == "other" and isinstance(v, float))
    return tuple(dict.fromkeys(found))


def _listed(values: object) -> str:
    return ", ".join(map(str, values)) if isinstance(values, tuple) else str(values)
