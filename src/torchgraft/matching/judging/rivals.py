"""The rivals of a pair: other units that fit as well by shape, name and block."""

from __future__ import annotations

import numpy as np

from torchgraft.matching.evidence.scores import Evidence

# A rival is told apart by its name, or its block, from this much less likeness on.
NAME_GAP, BLOCK_GAP = 0.05, 0.07


def rivals_of(i: int, j: int, evidence: Evidence, side: int) -> list[int]:
    """Return the rivals of a pair: other sources (side 0) or targets (side 1) that fit as well by shape, name and block.

    A unit is no rival if its name is less alike and shares fewer words; if the pair's names agree in the words for parts and
    its name doesn't; or if its blocks are less alike. A name that is only a number excludes nobody, nor does a block of a
    unit that lies in more lists: its likeness is that of its most alike block, as a mean over more blocks would be lower.
    If the sizes of the pair differ, units of other sizes are rivals, too. Votes of neighbours don't count here: they are
    made from the pairs themselves.
    """
    line, own = ((slice(None), j), i) if side == 0 else ((i, slice(None)), j)
    fits = evidence.fits[line] | (evidence.soft[line] & ~evidence.fits[i, j])
    fits[own] = False
    spoken = not (evidence.silent[0][i] or evidence.silent[1][j])
    silent = evidence.silent[side] if spoken else np.zeros_like(evidence.silent[side])
    by_name = (evidence.names[line] <= evidence.names[i, j] - NAME_GAP) & (
        evidence.shared[line] < evidence.shared[i, j]
    )
    by_name |= (evidence.names[line] < evidence.names[i, j]) & ~evidence.parts[line] & evidence.parts[i, j]
    deeper = evidence.depths[side] > evidence.depths[side][own]
    likeness = np.where(deeper, evidence.nearest[line], evidence.likeness[line])
    by_block = likeness <= evidence.likeness[i, j] - BLOCK_GAP
    apart = (by_name & ~silent) | (by_block & ~(silent & deeper))
    apart |= evidence.clash[line] & ~evidence.clash[i, j]
    apart |= evidence.turned[line] & ~evidence.turned[i, j]
    if evidence.uneven[i, j]:
        apart &= evidence.uneven[line] | evidence.clash[line]
    return [int(k) for k in np.flatnonzero(fits & ~apart)]
