"""How sure a pair is: what separates it from every rival that has the same shapes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from torchgraft.matching.units import kind_of
from torchgraft.matching.words import counted, place_in_list, stem

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from torchgraft.matching.evidence import Evidence
    from torchgraft.matching.units import Unit

# A rival is told apart by its name, or its block, from this much less likeness on.
NAME_GAP, BLOCK_GAP = 0.05, 0.07


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A source and a target unit that belong together, with the evidence.

    `name`, `block`, `tail` are 0 to 1; `in_order`: on the alignment of the two sequences; `adjoined`: a unit of the same
    shapes that stays free stands beside, with nothing in between that could tell; `named`: the same name under
    the naming rule, `unquestioned`: and no other reading near by; `told_apart`: no rival of the same shapes fits as well by name or block; `placed`: where one does, it stands
    elsewhere on both sides, or would fit worse as part of an exchange; `rare`: how few units
    share the shapes; `lead`: total score over the next best; `rival`: that next best source.
    """

    source: int
    target: int
    name: float
    block: float
    tail: float
    in_order: bool
    adjoined: bool
    named: bool
    unquestioned: bool
    told_apart: bool
    placed: bool
    rare: float
    lead: float
    rival: int | None


@dataclass(frozen=True, slots=True)
class Context:
    """What all pairs are judged against.

    `path` are the pairs on the alignment, `named` those of the same name, `regions` the part of the network that each
    unit of either side lies in, `sequences` both sides in order. `orderly`: the two agree from end to end; then order
    itself tells rivals apart. `contested` are the units of either side in whose row something was put in or taken out,
    and that have a place both from its start and from its end.
    """

    path: AbstractSet[tuple[int, int]]
    named: Mapping[int, int]
    regions: tuple[Sequence[str], Sequence[str]]
    sequences: tuple[Order, Order]
    orderly: bool
    contested: tuple[Container[int], Container[int]] = ((), ())

    def is_unquestioned(self, i: int, j: int, evidence: Evidence) -> bool:
        """Return whether a pair of the same name has no other reading.

        It has one where a source and a target near by, both left over by name, have the same shapes; and where names
        near by lead to other shapes, one of them is enough: a layer may have been inserted or moved, and then the same
        number means another layer.
        """
        if self._is_contested(i, j):
            return False
        sure = {a: b for a, b in self.named.items() if evidence.fits[a, b]}
        taken = set(sure.values())
        free_sources = [
            k for k in map(int, np.flatnonzero(evidence.fits[:, j])) if k not in sure and self._near(0, i, k)
        ]
        free_targets = [k for k in map(int, np.flatnonzero(evidence.fits[i])) if k not in taken and self._near(1, j, k)]
        if any(self._near(0, i, a) for a in self.named if a not in sure):
            return not (free_sources or free_targets)
        return not (free_sources and free_targets)

    def is_adjoined(
        self, pair: tuple[int, int], evidence: Evidence, taken: tuple[Container[int], Container[int]]
    ) -> bool:
        """Return whether the list of a pair has shifted and the pair could as well be the one beside it.

        Where a layer was inserted into a run of layers of the same shapes, or taken out of one, nothing but the values
        tells which of them it was.
        """
        i, j = pair
        if self._is_contested(i, j):
            return True
        if not self._has_shifted(i, j, evidence):
            return False
        beside = (evidence.fits[:, j], evidence.fits[i])
        return any(
            k not in taken[side] and self.sequences[side].adjoin(pair[side], k)
            for side in (0, 1)
            for k in map(int, np.flatnonzero(beside[side]))
        )

    def _is_contested(self, i: int, j: int) -> bool:
        return i in self.contested[0] or j in self.contested[1]

    def _has_shifted(self, i: int, j: int, evidence: Evidence) -> bool:
        if self.named.get(i) != j:
            return True
        ours, theirs = self.sequences
        if any(ours.beside(i, a) and not evidence.fits[a, b] for a, b in self.named.items()):
            return True
        taken = set(self.named.values())
        return any(ours.beside(i, a) for a in range(len(ours.paths)) if a not in self.named) and any(
            theirs.beside(j, b) for b in range(len(theirs.paths)) if b not in taken
        )

    def _near(self, side: int, first: int, second: int) -> bool:
        return self.regions[side][first] == self.regions[side][second]


class Exchange(NamedTuple):
    """Two units of a list, the first at the lower number (`rising`) or not; `likes`: the first at the number of the
    second, and the second at that of the first.
    """

    rising: bool
    likes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Order:
    """One side as a sequence: the paths of its units, how often the shapes changed up to each, in how many lists
    each stands, and its numbers in them, counted from the first of each list.
    """

    paths: tuple[str, ...]
    changes: tuple[int, ...]
    depths: tuple[int, ...]
    numbers: tuple[tuple[int, ...], ...]
    index: Mapping[str, int]

    @classmethod
    def of(cls, units: Sequence[Unit]) -> Order:
        """Return the sequence of `units`."""
        kinds = [kind_of(u) for u in units]
        steps = [int(at > 0 and kinds[at] != kinds[at - 1]) for at in range(len(kinds))]
        paths = tuple(u.path for u in units)
        depths = tuple(len(u.blocks) for u in units)
        return cls(
            paths, tuple(accumulate(steps)), depths, tuple(counted(paths)), {path: at for at, path in enumerate(paths)}
        )

    def numbered(self, first: int, second: int) -> bool:
        """Return whether two units stand at different numbers of one list."""
        return self._numbers(first, second) is not None

    def _numbers(self, first: int, second: int) -> tuple[list[str], list[str], int, str] | None:
        """Return the segments of two paths, where they first differ, and the name of the list whose numbers these are."""
        a, b = self.paths[first].split("."), self.paths[second].split(".")
        at = next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
        head = None if at is None else stem(a[at])
        return None if at is None or head is None or head != stem(b[at]) else (a, b, at, head)

    def exchange(self, first: int, second: int) -> Exchange | None:
        """Return what two units at different numbers of one list would be with numbers exchanged.

        None where no such list has both, or one of them has no like at the number of the other.
        """
        found = self._numbers(first, second)
        if found is None:
            return None
        a, b, at, head = found
        swapped = [*a[:at], b[at], *a[at + 1 :]], [*b[:at], a[at], *b[at + 1 :]]
        likes = [self.index.get(".".join(path)) for path in swapped]
        if likes[0] is None or likes[1] is None:
            return None
        return Exchange(
            rising=place_in_list(a[at][len(head) :]) < place_in_list(b[at][len(head) :]), likes=(likes[0], likes[1])
        )

    def beside(self, first: int, second: int) -> bool:
        """Return whether two units are members of one numbered list themselves."""
        a, b = self.paths[first].rpartition("."), self.paths[second].rpartition(".")
        return a[0] == b[0] and stem(a[2]) is not None and stem(a[2]) == stem(b[2])

    def adjoin(self, first: int, second: int) -> bool:
        """Return whether two members of one list have nothing of other shapes between them."""
        return first != second and self.beside(first, second) and not self.separates(first, second)

    def separates(self, first: int, second: int) -> bool:
        """Return whether something of other shapes stands between two units."""
        return self.changes[first] != self.changes[second]


# Share of both sides that must agree in order, end to end, before order counts.
ORDERLY = 0.97
# Likeness of names that an exchange of two pairs must lose before names count as settling which is which.
SWAP_GAP = 0.3


def sequences_of(sources: Sequence[Unit], targets: Sequence[Unit]) -> tuple[Order, Order]:
    """Return both sides as sequences."""
    return Order.of(sources), Order.of(targets)


def is_orderly(path: AbstractSet[tuple[int, int]], sources: Sequence[Unit], targets: Sequence[Unit]) -> bool:
    """Return whether the two sides agree in order from end to end."""
    shares = sum(min(sources[i].weight, targets[j].weight) for i, j in path)
    return shares >= ORDERLY * max(sum(u.weight for u in units) for units in (sources, targets))


def judged(
    pairs: Sequence[tuple[int, int]], total: np.ndarray, evidence: Evidence, votes: tuple[np.ndarray, np.ndarray],
    context: Context,
) -> list[Pair]:  # fmt: skip
    """Return the pairs with all that speaks for and against them."""
    partners = dict(pairs), {j: i for i, j in pairs}
    return [_judge((i, j), total, evidence, votes, context, partners) for i, j in pairs]


def _judge(
    pair: tuple[int, int], total: np.ndarray, evidence: Evidence, votes: tuple[np.ndarray, np.ndarray],
    context: Context, partners: tuple[Mapping[int, int], Mapping[int, int]],
) -> Pair:  # fmt: skip
    i, j = pair
    column, row = total[:, j].copy(), total[i].copy()
    column[i] = row[j] = -9.0
    rival = int(column.argmax())
    lead = total[i, j] - max(column.max(initial=0.0), row.max(initial=0.0))
    rivals = [(k, side) for side in (0, 1) for k in _rivals(i, j, evidence, side)]
    return Pair(
        source=i, target=j, name=float(evidence.names[i, j]), block=float(votes[0][i, j]), tail=float(votes[1][i, j]),
        in_order=pair in context.path, adjoined=context.is_adjoined(pair, evidence, partners), named=context.named.get(i) == j, unquestioned=context.named.get(i) == j and context.is_unquestioned(i, j, evidence),
        told_apart=all(_by_order(pair, *rival, context, partners) for rival in rivals),
        placed=all(_by_place(pair, *rival, evidence, context, partners) for rival in rivals), rare=float(evidence.rare[i, j]), lead=float(lead),
        rival=rival if column[rival] > 0.4 else None,
    )  # fmt: skip


def _rivals(i: int, j: int, evidence: Evidence, side: int) -> list[int]:
    """Return the other sources (side 0) or targets (side 1) that fit, and that name and block don't tell apart.

    Votes of neighbours don't count here: they follow from the pairs themselves.
    """
    line = (slice(None), j) if side == 0 else (i, slice(None))
    fits = evidence.fits[line].copy()
    fits[i if side == 0 else j] = False
    apart = (evidence.names[line] <= evidence.names[i, j] - NAME_GAP) & (evidence.shared[line] < evidence.shared[i, j])
    apart |= evidence.clash[line] & ~evidence.clash[i, j]
    apart |= evidence.likeness[line] <= evidence.likeness[i, j] - BLOCK_GAP
    return [int(k) for k in np.flatnonzero(fits & ~apart)]


def _by_order(
    pair: tuple[int, int], rival: int, side: int, context: Context,
    partners: tuple[Mapping[int, int], Mapping[int, int]],
) -> bool:  # fmt: skip
    """Return whether order tells a rival apart: numbers on one side at least, and other shapes in between."""
    if not context.orderly or pair not in context.path:
        return False
    other = partners[side].get(rival)
    if other is None:
        return False
    ours, theirs = (rival, other) if side == 0 else (other, rival)
    if (ours, theirs) not in context.path:
        return False
    first, second = context.sequences
    numbered = first.numbered(pair[0], ours) or second.numbered(pair[1], theirs)
    return numbered and first.separates(pair[0], ours)


def _by_place(
    pair: tuple[int, int], rival: int, side: int, evidence: Evidence, context: Context,
    partners: tuple[Mapping[int, int], Mapping[int, int]],
) -> bool:  # fmt: skip
    """Return whether a rival stands elsewhere: where the two sides agree on the place of both, or by their names.

    Numbers on both sides say it; or, for what is in order, that one of the two is deeper in lists on both sides, or has
    other shapes in between; and where names differ, an exchange of the partners may speak against it.
    """
    other = partners[side].get(rival)
    if other is None:
        return _stands_elsewhere(pair, rival, side, context.sequences)
    ours, theirs = (rival, other) if side == 0 else (other, rival)
    (i, j), (first, second), names = pair, context.sequences, evidence.names
    here, there = first.exchange(i, ours), second.exchange(j, theirs)
    if here and there and all(partners[0].get(a) == b for a, b in zip(here.likes, there.likes, strict=True)):
        return here.rising == there.rising
    if names[i, j] + names[ours, theirs] - names[i, theirs] - names[ours, j] >= SWAP_GAP:
        return True
    if not {pair, (ours, theirs)} <= context.path:
        return False
    deeper = first.depths[i] - first.depths[ours], second.depths[j] - second.depths[theirs]
    return (first.separates(i, ours) and second.separates(j, theirs)) or deeper[0] * deeper[1] > 0


def _stands_elsewhere(pair: tuple[int, int], rival: int, side: int, sequences: tuple[Order, Order]) -> bool:
    """Return whether both of a pair stand at the same numbers, and a rival that stays free at another, or in a list."""
    here, there = (order.numbers[at] for order, at in zip(sequences, pair, strict=True))
    if here != there:
        return False
    other = sequences[side].numbers[rival]
    return len(other) > len(here) or sequences[side].exchange(pair[side], rival) is not None
