"""The rivals of a pair: other units that fit as well by shape, name and block."""

from __future__ import annotations

import numpy as np

from torchgraft.core.errors import UsageError
from torchgraft.matching.evidence.order import Order
from torchgraft.matching.evidence.scores import STRANGE, Evidence, Said

# A row or a column of a matrix; a source and a target.
Line = tuple[slice | int, slice | int]
Index = tuple[int, int]
# A rival is told apart by its name, or its block, from this much less likeness on.
NAME_GAP, BLOCK_GAP = 0.05, 0.07
# Likeness of names that an exchange of two pairs must lose, or gain, before names count as settling which is which.
SWAP_GAP = 0.3
# Where both names have this much in common, a word more says it, too: `visual` of two towers, `temporal` of two attentions.
HALF = 0.5
# So often a pair is compared with a rival, in some ten seconds; where names tell nothing apart, each is with each.
MOST_COMPARED = 2_000_000


class Compared:
    """Counts how often pairs were compared with their rivals."""

    def __init__(self) -> None:
        self._times = 0

    def add(self, rivals: int, i: int, j: int, sources: Order, targets: Order) -> None:
        """Count the pair of units `i` and `j`, which has so many rivals.

        Raises:
            UsageError: there are too many.
        """
        self._times += rivals
        if self._times > MOST_COMPARED:
            ours, theirs = ".".join(sources.segments[i]), ".".join(targets.segments[j])
            raise UsageError(
                f"names leave open who feeds whom: {ours} of the file and {theirs} of the model are each one of {rivals + 1} "
                "that nothing tells apart, and comparing each with each would take minutes: say how names correspond with "
                "rename= (or which layers with layers=)"
            )


def _are_less_alike(line: Line, pair: tuple[int, int], said: Said) -> np.ndarray:
    """Return which names of a row or column are less alike than those of a pair."""
    alike, shared, parts = (table[line] for table in said)
    own = Said(*(table[pair] for table in said))
    less: np.ndarray = (alike <= own.alike - NAME_GAP) & (shared < own.shared)
    less |= (alike < own.alike) & ~parts & own.parts
    return less


def rivals_of(i: int, j: int, evidence: Evidence, side: int) -> list[int]:
    """Return the rivals of a pair: other sources (side 0) or targets (side 1) that fit as well by shape, name and block.

    A unit is no rival if its name is less alike and shares fewer words; if the pair's names agree in the words for parts and
    its name doesn't; if a word of it contradicts, and the pair's names have anything in common; or if its blocks are less
    alike. A name that is only a number excludes nobody, nor does a block of a unit that lies in more lists: its likeness is
    that of its most alike block, as a mean over more blocks would be lower.
    If the sizes of the pair differ, units of other sizes are rivals, too. Votes of neighbours don't count here: they are
    made from the pairs themselves.
    Where order is lost, a word for the kind of layer (`conv`, `norm`) tells nothing from a rival of that kind whose name has
    none.
    """
    line, own = ((slice(None), j), i) if side == 0 else ((i, slice(None)), j)
    fits = evidence.fits[line] | (evidence.soft[line] & ~evidence.fits[i, j])
    fits[own] = False
    spoken = not (evidence.silent[0][i] or evidence.silent[1][j])
    silent = evidence.silent[side] if spoken else np.zeros_like(evidence.silent[side])
    by_name, *without_kinds = [_are_less_alike(line, (i, j), said) for said in evidence.said]
    for less in without_kinds:
        by_name &= less | (evidence.kinds[side] == evidence.kinds[side][own]) | evidence.uneven[line]
    deeper = evidence.depths[side] > evidence.depths[side][own]
    likeness = np.where(deeper, evidence.nearest[line], evidence.likeness[line])
    by_block = likeness <= evidence.likeness[i, j] - BLOCK_GAP
    apart = (by_name & ~silent) | (by_block & ~(silent & deeper))
    if evidence.names[i, j] >= STRANGE:
        apart |= evidence.clash[line] & ~evidence.clash[i, j]
    apart |= evidence.turned[line] & ~evidence.turned[i, j]
    if evidence.uneven[i, j]:
        apart &= evidence.uneven[line] | evidence.clash[line]
    return [int(k) for k in np.flatnonzero(fits & ~apart)]


def fit_only_so(pair: Index, other: Index, evidence: Evidence) -> bool:
    """Return whether a swap of partners would bring shapes together that don't fit, or leave a bias over and another missing."""
    crossed = (pair[0], other[1]), (other[0], pair[1])
    if any(not (evidence.fits[index] or evidence.soft[index]) for index in crossed):
        return True
    even = not (evidence.uneven[pair] or evidence.uneven[other])
    return even and all(evidence.uneven[index] for index in crossed)


def by_words(pair: Index, other: Index, evidence: Evidence) -> tuple[float, bool]:
    """Return how much less alike names would be after a swap of partners, and whether that tells two pairs apart.

    Where order is lost, and but one of two units of a side says what kind of layer it is, it must also do so without such
    words.
    """
    first, *without_kinds = [_lost_by_swap(pair, other, said) for said in evidence.said]
    alike = all(table[a] == table[b] for table, a, b in zip(evidence.kinds, pair, other, strict=True))
    return first[0], first[1] and (alike or all(told for _, told in without_kinds))


def _lost_by_swap(pair: Index, other: Index, said: Said) -> tuple[float, bool]:
    (i, j), (ours, theirs) = pair, other
    lost, fewer = (
        float(table[i, j] + table[ours, theirs] - table[i, theirs] - table[ours, j])
        for table in (said.alike, said.shared)
    )
    spoken = min(said.alike[i, j], said.alike[ours, theirs]) >= HALF
    return lost, lost >= SWAP_GAP or (spoken and lost > 0 and fewer > 0)
