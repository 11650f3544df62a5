"""Learned moves against the conversion itself, on random values: what differs is no move of data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torchgraft.core.results.conversion import Computed, Output
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.learning.probes import Convert, random_values, run
from torchgraft.learning.running import value_of
from torchgraft.ops import Cast

# Types that conversions round to on their way: a round trip through one of them is a move with a loss.
ROUNDED = ("bfloat16", "float16", "float32")
MOST_SUSPECTS = 16


def proved(
    found: Iterable[Output | Computed], convert: Convert, specs: Mapping[str, TensorSpec]
) -> tuple[list[Output], list[Computed]]:
    """Return outputs that equal the conversion's, bit for bit, on random values; the others as computed, with their sources."""
    given = random_values(specs, 0)
    made, _ = run(convert, _copies(given))
    outputs, computed = [], []
    for output in found:
        if isinstance(output, Computed):
            computed.append(output)
            continue
        right = _corrected(output, given, made.get(output.name))
        if right is None:
            why = "its values are computed: they follow the source's, and are not the same"
            computed.append(Computed(spec=output.spec, why=why))
        else:
            outputs.append(right)
    if computed:
        computed = _with_sources(computed, convert, given, made)
    return outputs, computed


def _copies(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in values.items()}


def _corrected(output: Output, given: Mapping[str, Tensor], wanted: Tensor | None) -> Output | None:
    """Return the output as it is, or with the rounding that makes it right; None where nothing does."""
    if same(value_of(output, given.__getitem__), wanted):
        return output
    if not output.feeds or not output.spec.dtype.is_float:
        return None
    for kind in ROUNDED:
        rounded = replace(output, ops=(*output.ops, Cast(kind), Cast(output.spec.dtype.label)))
        if len(output.feeds) > 1 and not output.ops:
            continue
        if kind != output.spec.dtype.label and same(value_of(rounded, given.__getitem__), wanted):
            return rounded
    return None


def same(a: Tensor, b: Tensor | None) -> bool:
    """Return whether two tensors agree in shape, type and every value; NaN equals NaN."""
    import torch

    if b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_floating_point() and a.element_size() == 1:
        a, b = a.float(), b.float()
    return bool(torch.equal(a, b) or (a.is_floating_point() and ((a == b) | (a.isnan() & b.isnan())).all()))


def _alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor], name: str) -> bool:
    return name in a and same(a[name], b.get(name))


def _with_sources(
    computed: Sequence[Computed], convert: Convert, given: Mapping[str, Tensor], made: Mapping[str, Tensor]
) -> list[Computed]:
    """Return the computed outputs with the source tensors that change them.

    Sources are numbered; for each bit of the numbers one run changes those that have it set, and one those that don't.
    A source that matters is among the changed ones whenever the output changes. Few suspects are tried one by one.
    """
    again, _ = run(convert, _copies(given))
    drawn = {c.spec.name for c in computed if not _alike(again, made, c.spec.name)}
    others = random_values({name: _spec_like(given[name], name) for name in given}, 1)
    names = list(given)
    suspects = {c.spec.name: set(names) for c in computed if c.spec.name not in drawn}
    for bit in range(max(len(names) - 1, 1).bit_length()):
        for side in (0, 1):
            changed = {name for at, name in enumerate(names) if (at >> bit) & 1 == side}
            out = _run_changed(convert, given, others, changed)
            for name, left in suspects.items():
                if _alike(out, made, name):
                    left.difference_update(changed)
    tried = sorted({s for left in suspects.values() if len(left) <= MOST_SUSPECTS for s in left}, key=names.index)
    for source in tried if any(1 < len(left) <= MOST_SUSPECTS for left in suspects.values()) else ():
        out = _run_changed(convert, given, others, {source})
        for name, left in suspects.items():
            if source in left and len(left) <= MOST_SUSPECTS and _alike(out, made, name):
                left.discard(source)
    return [_told(c, drawn, suspects, names) for c in computed]


def _told(found: Computed, drawn: set[str], suspects: Mapping[str, set[str]], names: Sequence[str]) -> Computed:
    if found.spec.name in drawn:
        return replace(found, why="it differs from run to run on the same values: it is drawn at random", keys=())
    left = suspects[found.spec.name]
    return replace(found, keys=tuple(n for n in names if n in left), complete=len(left) <= MOST_SUSPECTS)


def _run_changed(
    convert: Convert, given: Mapping[str, Tensor], others: Mapping[str, Tensor], changed: set[str]
) -> dict[str, Tensor]:
    out, _ = run(convert, {name: (others if name in changed else given)[name].clone() for name in given})
    return out


def _spec_like(value: Tensor, name: str) -> TensorSpec:
    from torchgraft.learning.probes import spec_of

    return spec_of(name, value)
