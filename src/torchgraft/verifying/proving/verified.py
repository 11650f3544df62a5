"""What a verification proves of each tensor that a plan placed: the two models are taken as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchgraft.core.places import places
from torchgraft.verifying.proving.agreeing import Runs, Side
from torchgraft.verifying.proving.parts import Parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchgraft.verifying.proving.agreeing import Measure
    from torchgraft.verifying.questions import Question
    from torchgraft.verifying.tracing import Run


def verified_parts(asked: Question, ran: Sequence[tuple[Run, Run]], measure: Measure, *, passed: bool) -> Parts:
    """Return what is proved by these runs (of the source, of the target) on the first inputs, and what more runs show.

    Of models that ran in another mode than evaluation only the runs themselves are looked at.
    """
    tensors = {place.name: place.tensor for place in places(asked.source)} if asked.source else {}
    parts = Parts(
        model=asked.model,
        origin=asked.source if asked.evaluating else None,
        steps=asked.plan.by_slot,
        keys={name: name for name in tensors},
        shapes={name: tuple(tensor.shape) for name, tensor in tensors.items()},
        read=lambda feed: tensors[feed.key],
        measure=measure,
    )
    if not parts.left:
        return parts
    runs = [
        Runs.compared(
            None if parts.origin is None else Side(parts.origin, theirs), Side(asked.model, mine), pair, measure
        )
        for (theirs, mine), pair in zip(asked.pairs, ran, strict=False)
    ]
    parts.prove(runs, [theirs for theirs, _ in asked.pairs], passed=passed)
    return parts
