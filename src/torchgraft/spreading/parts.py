"""Steps cut down to what one process needs: the boxes of source tensors that make its box of a slot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torchgraft.core.plan import Feed
from torchgraft.ops import SelectRows
from torchgraft.spreading.boxes import Box, pull

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchgraft.core.plan import Op, Step
    from torchgraft.core.specs import TensorSpec

    Specs = Mapping[tuple[str, str], TensorSpec]


@dataclass(frozen=True, slots=True)
class PartFeed:
    """A box of a source tensor on its way into a part of a slot."""

    feed: Feed
    box: Box


@dataclass(frozen=True, slots=True)
class Part:
    """What makes one process's box of a slot."""

    feeds: tuple[PartFeed, ...]
    ops: tuple[Op, ...]


def part_of(step: Step, specs: Specs, box: Box) -> Part | None:
    """Return what makes `box` of what `step` computes, None where the whole must be made first.

    `specs` has the source tensors by (network, key).
    """
    if step.base or not step.feeds or not box.numel:
        return None
    chains = [_forward(feed.ops, specs[feed.network, feed.key]) for feed in step.feeds]
    joined = [[chain[-1] for chain in chains]]
    for op in step.ops:
        joined.append([op.out_spec(joined[-1])])
    wanted: list[Box | None] = [box]
    ops: list[Op] = []
    for op, inputs in zip(reversed(step.ops), reversed(joined[:-1]), strict=True):
        pulled = pull(op, inputs, wanted[0]) if wanted[0] is not None else None
        if pulled is None:
            return None
        wanted = list(pulled.boxes)
        ops = [*pulled.ops, *ops]
    feeds = []
    for feed, chain, want in zip(step.feeds, chains, wanted, strict=True):
        if want is not None:
            found = _through(feed, chain, want)
            if found is None:
                return None
            feeds.append(found)
    return Part(tuple(feeds), tuple(ops))


def limited(step: Step, positions: Sequence[int]) -> tuple[Op, ...]:
    """Return the ops of a step that fills some rows of its slot, followed by a choice among these rows."""
    return step.ops if step.rows is None else (*step.ops, SelectRows(step.rows.dim, tuple(positions)))


def _forward(ops: Sequence[Op], spec: TensorSpec) -> list[TensorSpec]:
    out = [spec]
    for op in ops:
        out.append(op.out_spec([out[-1]]))
    return out


def _through(feed: Feed, chain: Sequence[TensorSpec], box: Box) -> PartFeed | None:
    ops: list[Op] = []
    for op, spec in zip(reversed(feed.ops), reversed(chain[:-1]), strict=True):
        pulled = pull(op, [spec], box)
        if pulled is None or pulled.boxes[0] is None:
            return None
        box = pulled.boxes[0]
        ops = [*pulled.ops, *ops]
    return PartFeed(Feed(feed.key, tuple(ops), feed.network), box)
