"""Steps over tensor-parallel ranks: each feed becomes one per rank, joined before anything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torchgraft.core.match import Ranks, Shares
from torchgraft.core.plan import Certainty, Step, Why
from torchgraft.ops import JoinRanks


def over_ranks(steps: Sequence[Step], ranks: Ranks) -> tuple[Step, ...]:
    """Return the steps with the shares of all ranks as inputs.

    Replicated tensors are read from the first rank. A fused tensor that the caller said nothing about is doubt: its
    ranks may hold a share of each part, or just the next rows.
    """
    return tuple(_over(step, ranks) for step in steps)


def _over(step: Step, ranks: Ranks) -> Step:
    shares = [ranks.shares[feed.key] for feed in step.feeds]
    if all(share.kind == "replicated" for share in shares):
        return step
    if len(step.feeds) != 1:
        text = f"{step.why.text}; shares of tensor-parallel ranks that are also cut or fused are not joined"
        return Step(slot=step.slot, why=Why("ranks", text), certainty=Certainty.DOUBT)
    feed, share = step.feeds[0], shares[0]
    op = JoinRanks(share.kind, share.parts)
    return replace(
        step,
        feeds=tuple(replace(feed, network=path, ops=()) for path in ranks.members),
        ops=(op, *feed.ops, *step.ops),
        why=Why("ranks", f"{step.why.text}; {_said(share, len(ranks.members))}", step.why.evidence),
        certainty=step.certainty if share.kind != "parts" or share.stated else Certainty.DOUBT,
    )


def _said(share: Shares, count: int) -> str:
    if share.kind == "parts":
        fused = f"each of {count} parallel ranks holds its share of {len(share.parts)} fused parts"
        return fused if share.stated else f"{fused}, or just the next rows: say which with tensor_parallel="
    return f"{share.kind} of {count} parallel ranks joined"
