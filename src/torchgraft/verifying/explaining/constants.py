"""Constant tensors that enter into operations on both sides and differ: tables of rotary positions, biases, masks."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from torchgraft.core.formatting import listed
from torchgraft.core.results.recording import Fingerprint, Operation, Recording, family
from torchgraft.core.results.verification import Cause
from torchgraft.core.types import Tensor
from torchgraft.verifying.divergence import DivergencePoint, Matches

SAME_ENTRIES = 1e-5  # greatest distance of the fingerprints of tables that hold the same entries
CLOSE = 1e-4  # relative, of a frequency and the one that a base gives


def cause_at(  # the fields of a cause
    target: Operation,
    source: Operation,
    kind: str,
    text: str,
    remedy: str,
    values: tuple[object, object] = (None, None),
) -> Cause:
    """Return a cause in the modules of two operations; `values` are (the target's, the source's)."""
    return Cause(
        kind=kind,
        text=text,
        remedy=remedy,
        module=target.module,
        source_module=source.module,
        target=values[0],
        source=values[1],
    )


def operation_words(op: Operation) -> str:
    """Return an operation in words: its name, its module and the module's kind."""
    return f"{op.name.rstrip('_')} in {op.module or 'the model itself'}" + (f" ({op.kind})" if op.kind else "")


class _Constant(NamedTuple):
    """An input that doesn't depend on the model's inputs and is no parameter, with how it was made."""

    fingerprint: Fingerprint
    buffers: tuple[str, ...]
    made_by: list[Operation]

    @property
    def is_rotary(self) -> bool:
        return not {"cos", "sin"}.isdisjoint(op.name for op in self.made_by)

    @property
    def bases(self) -> tuple[object, ...]:
        """Numbers that were raised to powers in making it."""
        return tuple(
            dict.fromkeys(op.settings["self"] for op in self.made_by if op.name == "pow" and "self" in op.settings)
        )

    @property
    def factors(self) -> tuple[object, ...]:
        """Numbers that were multiplied or divided by in making it."""
        found = [op.settings.get("other") for op in self.made_by if op.name.rstrip("_") in ("mul", "div")]
        return tuple(dict.fromkeys(one for one in found if isinstance(one, float)))

    @property
    def words(self) -> str:
        return listed(self.buffers, 3) or "a computed table"


def constant_inputs(
    matches: Matches, target: Operation, source: Operation, wrong: Collection[str] = ()
) -> Iterator[Cause]:
    """Yield constants that enter on both sides and differ: rotary positions, biases, masks that no file holds.

    What is made of tensors that are known to be `wrong` differs for that.
    """
    target_table, source_table = _constant_input(matches.target, target), _constant_input(matches.source, source)
    if target_table is None or source_table is None or not set(wrong).isdisjoint(target_table.buffers):
        return
    rotary = (
        target_table.is_rotary
        or source_table.is_rotary
        or any(map(_sounds_rotary, ((target, target_table), (source, source_table))))
    )
    kind = "rotary" if rotary else "buffer"
    if target_table.fingerprint.distance(source_table.fingerprint) <= SAME_ENTRIES:
        if family(target.name) in ("product", "sum") and target.shapes and source.shapes:
            text = f"{operation_words(target)} uses a table of the same entries in another order"
            remedy = "use the source's layout of pairs (halves or interleaved), or reorder the rows of q and k"
            yield cause_at(target, source, kind, text, remedy)
    elif numbers := _other_numbers(target_table, source_table):
        word, ours, theirs = numbers
        words = [", ".join(map(str, one)) for one in (ours, theirs)]
        text = f"{operation_words(target)} uses a table made with {word} {words[0]}, the source one with {words[1]}"
        remedy = f"build the model with base {words[1]}" if word == "base" else "build both with the same settings"
        yield cause_at(target, source, kind, text, remedy, (ours, theirs))
    else:
        text = (
            f"{operation_words(target)} uses {target_table.words}, whose values differ from {source_table.words} of the "
            "source"
        )
        remedy = "build both with the same settings, or copy the table by hand"
        yield cause_at(target, source, kind, text, remedy, (target_table.words, source_table.words))


def _other_numbers(ours: _Constant, theirs: _Constant) -> tuple[str, tuple[object, ...], tuple[object, ...]] | None:
    """Return what the numbers are that two tables were made with, and these, where they differ."""
    for word, one, other in (("base", ours.bases, theirs.bases), ("factor", ours.factors, theirs.factors)):
        if one and other and one != other:
            return word, one, other
    return None


def _sounds_rotary(used: tuple[Operation, _Constant]) -> bool:
    op, constant = used
    names = f"{op.module} {op.kind} {' '.join(constant.buffers)}".lower()
    return any(word in names for word in ("rot", "rope", "inv_freq"))


def where_constants_part(matches: Matches, point: DivergencePoint) -> DivergencePoint:
    """Return where runs part in what they compute from weights alone, before that meets activations.

    A decoder does so with its queries. It is `point` where they don't, or where the two do so by different operations.
    """
    if point.target is None or point.source is None:
        return point
    target = _first_unmatched(matches.target, point.target, matches.source_of)
    source = _first_unmatched(matches.source, point.source, matches.target_of)
    if target is None or source is None:
        return point
    kinds = {family(matches.target.operations[target].name), family(matches.source.operations[source].name)}
    return DivergencePoint(source, target) if len(kinds) == 1 else point


def _first_unmatched(recording: Recording, number: int, matched: Container[int]) -> int | None:
    """Return the first operation behind one that works on weights alone and has a result without a match."""
    values = recording.values
    made = [n for n in recording.operations[number].inputs if not values[n].live and len(values[n].weights) > 1]
    if all(n in matched for n in made):
        return None
    wanted = set(map(id, (op for n in made if n not in matched for op in _ancestors(recording, n))))
    for at, operation in enumerate(recording.operations):
        if id(operation) in wanted and not all(n in matched for n in operation.outputs if values[n].fingerprint):
            return at
    return None


def _constant_input(recording: Recording, op: Operation) -> _Constant | None:
    if family(op.name) not in ("product", "sum", "attention", "where", "matrix product"):
        return None
    for number in op.inputs:
        value = recording.values[number]
        if not value.live and value.fingerprint is not None and value.op >= 0:
            return _Constant(value.fingerprint, value.weights, _ancestors(recording, number))
    return None


def _ancestors(recording: Recording, number: int) -> list[Operation]:
    """Return all operations that a value was made by."""
    out: dict[int, Operation] = {}
    stack = [number]
    while stack:
        at = recording.values[stack.pop()].op
        if at >= 0 and at not in out:
            out[at] = recording.operations[at]
            stack.extend(recording.operations[at].inputs)
    return list(out.values())


def rotary_base(frequencies: Tensor) -> float | None:
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


def with_rotary_bases(cause: Cause, model: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> Cause:
    """Return a cause that names two tables of frequencies with the bases that they were made with, where these show."""
    if cause.kind != "rotary" or cause.target not in model or cause.source not in source:
        return cause
    bases = rotary_base(model[str(cause.target)]), rotary_base(source[str(cause.source)])
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
