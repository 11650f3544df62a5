"""Tables that enter into operations on both sides and differ: rotary positions, biases, masks; operations in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from torchgraft.core.families import family
from torchgraft.core.results.recording import Operation, Recording
from torchgraft.core.results.verification import Cause
from torchgraft.core.types import Tensor
from torchgraft.verifying.divergence import Matches


def cause_at(
    mine: Operation,
    other: Operation,
    kind: str,
    text: str,
    remedy: str,
    values: tuple[object, object] = (None, None),
) -> Cause:
    """Return a cause in the modules of two operations, the target's and the source's; `values` are theirs, in this order."""
    where = {"module": mine.module, "source_module": other.module}
    return Cause(kind=kind, text=text, remedy=remedy, target=values[0], source=values[1], **where)


def words_of(op: Operation) -> str:
    """Return an operation in words: its name, its module and the module's kind."""
    return f"{op.name.rstrip('_')} in {op.module or 'the model itself'}" + (f" ({op.kind})" if op.kind else "")


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
    kind = "rotary" if rotary else "buffer"
    if looks[0].distance(looks[1]) <= 1e-5:
        if family(mine.name) in ("product", "sum") and mine.shapes and other.shapes:
            text = f"{words_of(mine)} uses a table of the same entries in another order"
            remedy = "use the source's layout of pairs (halves or interleaved), or reorder the rows of q and k"
            yield cause_at(mine, other, kind, text, remedy)
    elif bases[0] and bases[1] and bases[0] != bases[1]:
        ours, theirs = map(_listed, bases)
        text = f"{words_of(mine)} uses a table made with base {ours}, the source one with {theirs}"
        yield cause_at(mine, other, kind, text, f"build the model with base {theirs}", (bases[0], bases[1]))
    else:
        ours, theirs = (", ".join(names) or "a computed table" for _, names, _ in (a, b))
        text = f"{words_of(mine)} uses {ours}, whose values differ from {theirs} of the source"
        remedy = "build both with the same settings, or copy the table by hand"
        yield cause_at(mine, other, kind, text, remedy, (ours, theirs))


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


CLOSE = 1e-4


def base_of(frequencies: Tensor) -> float | None:
    """Return the base of frequencies base^(-k / n), k = 0 ... n - 1; None for what is no such table.

    The formula is that of RoFormer (Su et al., 2021): theta_i = 10000^(-2 (i - 1) / d), with n = d / 2.
    """
    import torch

    flat = frequencies.detach().to("cpu", torch.float64).reshape(-1)
    size = len(flat)
    if size < 2 or not bool((flat > 0).all()) or abs(float(flat[0]) - 1) > CLOSE or float(flat[1]) >= 1:
        return None
    base = float(flat[1]) ** -size
    made = base ** (-torch.arange(size, dtype=torch.float64, device="cpu") / size)
    if not bool(((flat - made).abs() <= CLOSE * made).all()):
        return None
    return float(f"{base:.4g}")


def with_bases(cause: Cause, model: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> Cause:
    """Return a cause that names two tables of frequencies with the bases that they were made with, where these show."""
    if cause.kind != "rotary" or cause.target not in model or cause.source not in source:
        return cause
    bases = base_of(model[str(cause.target)]), base_of(source[str(cause.source)])
    if None in bases or bases[0] == bases[1]:
        return cause
    return replace(
        cause,
        target=bases[0],
        source=bases[1],
        remedy=f"build the model with base {bases[1]:g}",
        text=f"{cause.target} is a table of rotary frequencies of base {bases[0]:g}, {cause.source} of the source one of "
        f"base {bases[1]:g}",
    )
