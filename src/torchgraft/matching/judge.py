"""How sure a pair is: what separates it from every rival that has the same shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence, Set

    from torchgraft.matching.evidence import Evidence

# A rival is told apart by its name, or its block, from this much less likeness on.
NAME_GAP, BLOCK_GAP = 0.12, 0.07


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A source and a target unit that belong together, with the evidence.

    `name`, `block`, `tail` are 0 to 1; `in_order`: on the alignment of the two sequences; `named`: the same name under
    the naming rule, `trusted`: and nothing makes names doubtful there; `told_apart`: no rival of the same shapes fits as well by name or block; `rare`: how few units
    share the shapes; `lead`: total score over the next best; `rival`: that next best source.
    """

    source: int
    target: int
    name: float
    block: float
    tail: float
    in_order: bool
    named: bool
    trusted: bool
    told_apart: bool
    rare: float
    lead: float
    rival: int | None


@dataclass(frozen=True, slots=True)
class Context:
    """Pairs on the alignment, pairs of the same name, and those of them that names may decide."""

    path: Set[tuple[int, int]]
    named: Mapping[int, int]
    trusted: Mapping[int, int]


def judged(
    pairs: Sequence[tuple[int, int]], total: np.ndarray, evidence: Evidence, votes: tuple[np.ndarray, np.ndarray],
    context: Context,
) -> list[Pair]:  # fmt: skip
    """Return the pairs with all that speaks for and against them."""
    return [_judge(i, j, total, evidence, votes, context) for i, j in pairs]


def _judge(
    i: int, j: int, total: np.ndarray, evidence: Evidence, votes: tuple[np.ndarray, np.ndarray], context: Context
) -> Pair:  # fmt: skip
    column, row = total[:, j].copy(), total[i].copy()
    column[i] = row[j] = -9.0
    rival = int(column.argmax())
    lead = total[i, j] - max(column.max(initial=0.0), row.max(initial=0.0))
    return Pair(
        source=i, target=j, name=float(evidence.names[i, j]), block=float(votes[0][i, j]), tail=float(votes[1][i, j]),
        in_order=(i, j) in context.path, named=context.named.get(i) == j,
        trusted=context.trusted.get(i) == j,
        told_apart=_told_apart(i, j, evidence), rare=float(evidence.rare[i, j]), lead=float(lead),
        rival=rival if column[rival] > 0.4 else None,
    )  # fmt: skip


def _told_apart(i: int, j: int, evidence: Evidence) -> bool:
    """Return whether every rival, on either side, is less alike by name, clashes, or stands in a less alike block.

    Votes of neighbours don't count here: they follow from the pairs themselves.
    """
    for line in ((slice(None), j), (i, slice(None))):
        rivals = evidence.fits[line].copy()
        rivals[i if line[1] == j and isinstance(line[0], slice) else j] = False
        if not rivals.any():
            continue
        apart = evidence.names[line] <= evidence.names[i, j] - NAME_GAP
        apart |= evidence.clash[line] & ~evidence.clash[i, j]
        apart |= evidence.likeness[line] <= evidence.likeness[i, j] - BLOCK_GAP
        if (rivals & ~apart).any():
            return False
    return True
