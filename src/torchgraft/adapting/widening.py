"""Values that are computed are computed in the model's type where the file's is narrower, so that they are rounded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Feed, Step
from torchgraft.core.specs import TensorSpec
from torchgraft.ops import Cast

NARROW = frozenset({DType.F16, DType.BF16})


def widened(step: Step, specs: Mapping[str, TensorSpec]) -> Step:
    """Return the step with 16-bit inputs cast to the model's wider type ahead of ops that round; else the step itself.

    A mean of bfloat16 values, say, is a number that bfloat16 seldom has; a float32 model can hold it.
    """
    if not any(op.rounds for op in step.ops) and not any(op.rounds for feed in step.feeds for op in feed.ops):
        return step
    wide = step.slot.spec.dtype

    def cast(feed: Feed) -> Feed:
        spec = specs.get(feed.key)
        if spec is None or spec.dtype not in NARROW or spec.dtype is wide or not wide.holds(spec.dtype):
            return feed
        return replace(feed, ops=(Cast(wide.label), *feed.ops))

    return replace(step, feeds=tuple(map(cast, step.feeds)))
