"""Layers of which only the bias would go over: the weight doesn't fit, and the layer is called otherwise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchgraft.core.plan import Step, Why

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchgraft.core.match import Leaf, Match

TORN = "the weight of the layer that it belongs to does not fit, so it may be another layer's"


def torn(matches: Sequence[Match], steps: Mapping[str, Step]) -> dict[str, Match]:
    """Return slot -> match of what is left of layers whose weight fits nowhere, where no name says that they are the same.

    A layer of another size that took its place is another layer; its bias means nothing without its weight.
    """
    whole = [m for m in matches if m.source.part is None and m.target.part is None]
    lost = {
        (m.source.owner, m.target.owner) for m in whole
        if m.target.role == "weight" and _is_empty(m, steps) and _own(m.source) != _own(m.target)
    }  # fmt: skip
    return {
        m.target.keys[0]: m for m in whole
        if lost and m.target.role == "bias" and (m.source.owner, m.target.owner) in lost and not _is_empty(m, steps)
    }  # fmt: skip


def kept_fresh(step: Step) -> Step:
    """Return the step of a slot that is left fresh for that reason."""
    return Step(slot=step.slot, why=Why("shape", TORN, step.why.evidence))


def _own(leaf: Leaf) -> str:
    return leaf.owner.rpartition(".")[2]


def _is_empty(match: Match, steps: Mapping[str, Step]) -> bool:
    step = steps.get(match.target.keys[0])
    return step is not None and not step.feeds
