"""Layers of which only the bias would go over: the weight doesn't fit, and the layer is called otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torchgraft.core.match import Leaf, Match
from torchgraft.core.plan import Step, Why

TORN = "the weight of the layer that it belongs to does not fit, so it may be another layer's"


def torn(matches: Sequence[Match], steps: Mapping[str, Step]) -> dict[str, Match]:
    """Return slot -> match of what is left of layers whose weight fits nowhere, where no name says that they are the same.

    A layer of another size that took its place is another layer; its bias means nothing without its weight. Nor is it
    the same, whatever it is called, where one weighs single channels, as norms do, and the other mixes them.
    """
    whole = [m for m in matches if m.source.part is None and m.target.part is None]
    weights = [m for m in whole if m.target.role == "weight"]
    lost = {m.source.owner for m in weights if _is_empty(m, steps)}
    lost.difference_update(m.source.owner for m in weights if not _is_empty(m, steps))
    others = {m.source.owner for m in weights if _mixes(m.source) != _mixes(m.target)}
    return {
        m.target.keys[0]: m for m in whole
        if m.source.owner in lost and m.target.role == "bias" and not _is_empty(m, steps)
        if m.source.owner in others or _own(m.source) != _own(m.target)
    }  # fmt: skip


def kept_fresh(step: Step) -> Step:
    """Return the step of a slot that is left fresh for that reason."""
    return Step(slot=step.slot, why=Why("shape", TORN, step.why.evidence))


def _mixes(weight: Leaf) -> bool:
    return len(weight.shape) > 1


def _own(leaf: Leaf) -> list[str]:
    """Return what a layer is called by itself: its last word, and the numbers behind it, which say nothing without it."""
    parts = leaf.owner.split(".")
    words = [at for at, part in enumerate(parts) if not part.isdecimal()]
    return parts[words[-1] :] if words else parts


def _is_empty(match: Match, steps: Mapping[str, Step]) -> bool:
    step = steps.get(match.target.keys[0])
    return step is not None and not step.feeds
