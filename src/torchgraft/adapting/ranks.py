"""Steps that read what tensor-parallel ranks hold of a tensor, all ranks together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import gcd

from torchgraft.core.errors import printable
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Ranks, Shares
from torchgraft.core.names import parent_of
from torchgraft.core.plan import Certainty, Plan, Step, Why
from torchgraft.core.specs import Shape
from torchgraft.ops import JoinRanks, SliceDim

QKV = 3  # so many parts, of which queries may be larger than keys and values


def over_ranks(steps: Sequence[Step], ranks: Ranks) -> tuple[Step, ...]:
    """Return the steps with the shares of all ranks as inputs.

    Replicated tensors are read from the first rank. A fused tensor that the caller said nothing about is doubt: its
    ranks may hold a share of each part, or just the next rows. So is a matrix of which nothing tells how it is shared.
    """
    sizes = _Sizes(_cuts(steps), {name: step.slot.spec.shape for step in steps for name in step.slot.names})
    return tuple(_over(step, ranks, sizes) for step in steps)


def rank_note(plan: Plan, ranks: Ranks | None) -> str:
    """Return a note on unused tensors that ranks share in an unknown way; "" where there are none."""
    left = [u.spec.name for u in plan.unused if ranks and not u.quiet and not ranks.shares[u.spec.name].known]
    if not left:
        return ""
    more = f" and {len(left) - 1} more" if len(left) > 1 else ""
    return (
        f"how the ranks share {printable(left[0])}{more} isn't known, as the model has nothing of that name: say what it is "
        "called there (rename=), or how it is shared (tensor_parallel=)"
    )


def _over(step: Step, ranks: Ranks, sizes: _Sizes) -> Step:
    shares = [ranks.shares[feed.key] for feed in step.feeds]
    if not all(share.known for share in shares):
        text = f"{step.why.text}; how the ranks share it isn't known: say it with tensor_parallel= or rename="
        return replace(step, why=Why(Ground.RANKS, text, step.why.evidence), certainty=Certainty.DOUBT)
    if all(share.kind == "replicated" for share in shares):
        return step
    if len(step.feeds) != 1:
        return _blocked(step, "shares of tensor-parallel ranks that are also cut or fused are not joined")
    feed, share = step.feeds[0], shares[0]
    parts = sizes.of(step, len(share.parts)) if share.kind == "parts" else ()
    held = ranks.network.specs[feed.key].shape
    if parts and held and (held[0] // len(ranks.members)) % sum(parts):
        said = f"the parts have {', '.join(map(str, parts))} times as many rows as each other"
        return _blocked(step, f"{said}, which doesn't go into the {held[0] // len(ranks.members)} rows of a rank")
    open_question = share.usual or (share.kind == "parts" and not share.stated)
    return replace(
        step,
        feeds=tuple(replace(feed, network=path, ops=()) for path in ranks.members),
        ops=(JoinRanks(share.kind, parts), *feed.ops, *step.ops),
        why=Why(Ground.RANKS, f"{step.why.text}; {_how_joined(share, len(ranks.members))}", step.why.evidence),
        certainty=Certainty.DOUBT if open_question else step.certainty,
    )


def _blocked(step: Step, text: str) -> Step:
    return Step(slot=step.slot, why=Why(Ground.RANKS, f"{step.why.text}; {text}"), certainty=Certainty.DOUBT)


def _how_joined(share: Shares, count: int) -> str:
    ask = f"say which with tensor_parallel= ({share.word!r} or 'rows')"
    if share.kind == "parts":
        fused = f"each of {count} parallel ranks holds its share of {len(share.parts)} fused parts"
        return fused if share.stated else f"{fused}, or just the next rows: {ask}"
    joined = f"{share.kind} of {count} parallel ranks joined"
    return (
        f"{joined}, as rows that go head by head, or each holds its share of q, k and v: {ask}"
        if share.usual
        else joined
    )


def _cuts(steps: Sequence[Step]) -> dict[str, tuple[int, ...]]:
    """Return how many rows the parts of a tensor have that several steps cut, where these are all of its rows."""
    found: dict[str, set[tuple[int, int]]] = defaultdict(set)
    wholes: dict[str, int | None] = {}
    for step in steps:
        for feed in step.feeds:
            for op in feed.ops:
                if isinstance(op, SliceDim) and op.dim == 0:
                    found[feed.key].add((op.start, op.stop))
                    wholes[feed.key] = op.of
    cuts = {key: sorted(places) for key, places in found.items()}
    return {
        key: tuple(stop - start for start, stop in places)
        for key, places in cuts.items()
        if places[0][0] == 0 and places[-1][1] == wholes[key] and all(a[1] == b[0] for a, b in pairwise(places))
    }


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What tells how many rows each part of a fused tensor has: where it is cut, or the shapes of what stands beside it."""

    cuts: Mapping[str, Sequence[int]]
    shapes: Mapping[str, Shape]

    def of(self, step: Step, count: int) -> tuple[int, ...]:
        """Return the relative sizes of the `count` parts: equal ones where nothing tells."""
        rows = self.cuts.get(step.feeds[0].key) or (self._beside(step) if count == QKV else ())
        if len(rows) != count:
            return (1,) * count
        return tuple(size // gcd(*rows) for size in rows)

    def _beside(self, step: Step) -> tuple[int, ...]:
        """Return the rows of q, k and v by the layer beside them that takes what the queries make; () where none tells."""
        module = step.slot.name.rpartition(".")[0]
        shape = self.shapes.get(f"{module}.weight", ())
        if len(shape) != 2 or step.slot.spec.shape[0] != shape[0]:
            return ()
        around = module.rpartition(".")[0]
        beside = [
            other
            for name, other in self.shapes.items()
            if len(other) == 2
            and other[0] == shape[1]
            and parent_of(parent_of(name)) == around
            and parent_of(name) != module
        ]
        widths = {other[1] for other in beside}
        if len(widths) != 1:
            return ()
        (queries,) = widths
        keys, odd = divmod(shape[0] - queries, 2)
        return (queries, keys, keys) if keys > 0 and not odd and queries % keys == 0 else ()
