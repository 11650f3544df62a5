"""The way back: a conversion that makes the source of its outputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

import numpy as np

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.plan import Op
from torchgraft.core.results.conversion import Conversion, Output
from torchgraft.learning.outputs import output_of
from torchgraft.learning.probes import CONSTANT, Ids, Numbering, Traced
from torchgraft.learning.running import value_of
from torchgraft.ops import Cast, PadRows

C = TypeVar("C", bound=Conversion)


def inverted(conversion: C) -> C:
    """Return the conversion from the outputs back to the sources.

    Every element of the source is looked for among the outputs by its number; then the way back is explained as the
    way there was.

    Raises:
        UsageError: elements of the source are in no output, or are rounded there.
    """
    there = Numbering(conversion.sources)
    back = Numbering({output.name: output.spec for output in conversion.outputs if output.feeds})
    homes = _homes(conversion, there, back)
    lost = [name for name, ids in homes.items() if (ids == CONSTANT).any()]
    if lost:
        raise UsageError(_refusal("the conversion leaves out", [_lost(name, homes[name]) for name in lost]))
    rounding = [output.name for output in conversion.outputs if _rounds(output, conversion)]
    if rounding:
        raise UsageError(_refusal("the conversion rounds", [printable(name) for name in rounding]))
    made = [output_of(Traced(spec, homes.pop(name), None), back) for name, spec in conversion.sources.items()]
    failed = [printable(found.spec.name) for found in made if not isinstance(found, Output)]
    if failed:
        raise UsageError(_refusal("no short plan makes", failed))
    outputs = tuple(found for found in made if isinstance(found, Output))
    return replace(conversion, sources=back.specs, outputs=outputs, computed=(), skipped=())


def _homes(conversion: Conversion, there: Numbering, back: Numbering) -> dict[str, Ids]:
    """Return for each source tensor the number of the output element that holds each of its elements, or CONSTANT."""
    import torch

    flat: Ids = np.full(there.total, CONSTANT, dtype=np.int64)
    starts = dict(zip(there.names, (int(n) for n in there.starts), strict=False))
    for at, name in enumerate(back.names):
        output = _without_casts(conversion.by_name[name])
        # Zeros that an output inserts have no origin: counted from one, they can't be taken for an element.
        value = value_of(
            output,
            lambda key: (torch.arange(there.specs[key].numel, device="cpu") + starts[key] + 1).reshape(
                there.specs[key].shape
            ),
        )
        origin = value.reshape(-1).numpy() - 1
        mine = np.arange(origin.size, dtype=np.int64) + int(back.starts[at])
        real = (origin >= 0) & (origin < there.total)
        flat[origin[real][::-1]] = mine[real][::-1]
    return {
        name: flat[starts[name] : starts[name] + spec.numel].reshape(spec.shape) for name, spec in there.specs.items()
    }


def _without_casts(output: Output) -> Output:
    feeds = tuple(replace(feed, ops=_moves(feed.ops)) for feed in output.feeds)
    return replace(output, feeds=feeds, ops=_moves(output.ops))


def _moves(ops: Iterable[Op]) -> tuple[Op, ...]:
    """Return the ops as they move numbers: without casts, and with zeros where constants are added."""
    return tuple(replace(op, value=0.0) if isinstance(op, PadRows) else op for op in ops if not isinstance(op, Cast))


def _rounds(output: Output, conversion: Conversion) -> bool:
    """Return whether a cast on the way can't hold every value of the source."""
    for feed in output.feeds:
        stored = conversion.sources[feed.key].dtype
        casts = [op for op in (*feed.ops, *output.ops) if isinstance(op, Cast)]
        if not all(DType.of(op.dtype).holds(stored) for op in casts):
            return True
    return False


def _lost(name: str, ids: Ids) -> str:
    count = int((ids == CONSTANT).sum())
    return f"{printable(name)} ({'all' if count == ids.size else count} of its {ids.size} elements)"


def _refusal(what: str, names: list[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"no inverse: {what} {', '.join(names[:6])}{more}; what is gone can't be made again"
