"""Learned moves against the conversion itself, on random values: what differs is no move of data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from torchgraft.core.results.conversion import Computed, Output
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.core.values import same_values
from torchgraft.learning.probes import Convert, random_values, run_conversion
from torchgraft.learning.source import value_of
from torchgraft.ops import Cast

# Types that conversions round to on their way: a round trip through one of them is a move with a loss.
ROUNDED = ("bfloat16", "float16", "float32")
MOST_SUSPECTS = 16


def validate(
    found: Iterable[Output | Computed], convert: Convert, specs: Mapping[str, TensorSpec]
) -> tuple[list[Output], list[Computed]]:
    """Return outputs that equal the conversion's, bit for bit, on random values; the others as computed, with their sources."""
    given = random_values(specs, 0)
    made, _ = run_conversion(convert, {name: value.clone() for name, value in given.items()})
    outputs, computed = [], []
    for output in found:
        if isinstance(output, Computed):
            computed.append(output)
            continue
        right = _with_rounding_if_needed(output, given, made.get(output.name))
        if right is None:
            why = "its values are computed: they follow the source's, and are not the same"
            computed.append(Computed(spec=output.spec, why=why))
        else:
            outputs.append(right)
    if computed:
        computed = _with_sources(computed, convert, specs, made)
    return outputs, computed


def _with_rounding_if_needed(output: Output, given: Mapping[str, Tensor], wanted: Tensor | None) -> Output | None:
    """Return the output as it is, or with the rounding that makes it right; None where nothing does."""
    if wanted is None:
        return None
    if same_values(value_of(output, given.__getitem__), wanted):
        return output
    if not output.feeds or not output.spec.dtype.is_float:
        return None
    for kind in ROUNDED:
        rounded = replace(output, ops=(*output.ops, Cast(kind), Cast(output.spec.dtype.label)))
        if kind != output.spec.dtype.label and same_values(value_of(rounded, given.__getitem__), wanted):
            return rounded
    return None


def _with_sources(
    computed: Sequence[Computed], convert: Convert, specs: Mapping[str, TensorSpec], made: Mapping[str, Tensor]
) -> list[Computed]:
    """Return the computed outputs with the source tensors that change them.

    An output that stays the same while some sources have other values doesn't depend on these. Sources are numbered; for
    each bit of the numbers one run changes those that have it set, and one those that don't. Few suspects are tried one by
    one.
    """
    given, others = random_values(specs, 0), random_values(specs, 1)
    names = list(specs)

    def unchanged(changed: Collection[str], among: Iterable[str]) -> list[str]:
        """Return the outputs that stay the same when these sources have other values."""
        out, _ = run_conversion(convert, {n: (others if n in changed else given)[n].clone() for n in names})
        return [name for name in among if name in out and name in made and same_values(out[name], made[name])]

    repeatable = unchanged((), [one.spec.name for one in computed])
    suspects = {name: set(names) for name in repeatable}
    for bit in range(max(len(names) - 1, 1).bit_length()):
        for side in (0, 1):
            changed = {name for at, name in enumerate(names) if (at >> bit) & 1 == side}
            for name in unchanged(changed, suspects):
                suspects[name] -= changed
    few = [left for left in suspects.values() if len(left) <= MOST_SUSPECTS]
    tried = sorted(set().union(*few), key=names.index) if any(len(left) > 1 for left in few) else []
    for source in tried:
        suspected_by = [name for name, left in suspects.items() if source in left and len(left) <= MOST_SUSPECTS]
        for name in unchanged({source}, suspected_by):
            suspects[name].discard(source)
    return [_with_keys(c, suspects.get(c.spec.name), names) for c in computed]


def _with_keys(found: Computed, suspects: set[str] | None, names: Sequence[str]) -> Computed:
    if suspects is None:
        return replace(found, why="it differs from run to run on the same values: it is drawn at random", keys=())
    keys = tuple(n for n in names if n in suspects)
    return replace(found, keys=keys, complete=len(suspects) <= MOST_SUSPECTS)
