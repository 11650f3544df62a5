"""Each pair beside its rivals, the other units of the same shapes: what tells it from them, and what does not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from torchgraft.matching.evidence.order import Order, rank_alike
from torchgraft.matching.evidence.scores import FITS, NEVER, Evidence
from torchgraft.matching.judging.openings import openings
from torchgraft.matching.judging.rivals import SWAP_GAP, Compared, by_words, fit_only_so, rivals_of
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.names.words import canonical

# A source and a target.
Index = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rivalry:
    """What tells a pair from its rivals, the other units of the same shapes; nothing, where it was compared with none."""

    runner_up: int | None = None  # the source of the next best total score
    margin: float = 0.0  # total score over that
    # Beside a unit of these shapes that stays free, with nothing between that could tell, or at its place.
    adjoined: bool = False
    unquestioned: bool = False  # of the same name, and no other reading near by
    told_apart: bool = False  # no rival fits as well by name or block
    behind: bool = False  # both stand behind all lists, and no rival stays free
    unrivalled: bool = False  # no rival that stays free does, unless it stands elsewhere
    # Nor one that is paired, unless it stands elsewhere on both sides, or an exchange would be worse.
    placed: bool = False
    outside: bool = False  # both stand beside all lists of their side under one name, and rivals stand in lists
    ended: bool = False  # the same of first or last norms under two names, in front of all lists or behind them
    told_elsewhere: bool = False  # other blocks tell it from a rival
    exchangeable: bool = False  # a rival stands in the same block on both sides


NOT_COMPARED = Rivalry()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A source and a target unit that belong together, and the evidence for them; shares are 0 to 1."""

    source: int
    target: int
    fits: bool  # they have the same elements
    named: bool  # the same name under the naming rule
    pinned: bool = False  # and no other layer may have that name after one was inserted or moved
    name: float  # how alike the names are
    clash: bool = False  # they contradict each other
    block: float = 0.0  # how much else of their blocks is paired
    tail: float = 0.0  # how often units at their places in blocks are paired
    in_order: bool = False  # on the alignment of the two sequences
    listed: bool = False  # one of them stands in a member of a list
    rare: float = 0.0  # how few units share the shapes
    stem: bool = False  # both are kernels of one shape that read images
    beside: Index | None = None  # of norms: the pair of the layers that names give them
    rivalry: Rivalry = NOT_COMPARED


@dataclass(frozen=True, slots=True)
class Context:
    """What all pairs are judged against."""

    path: AbstractSet[Index]  # the pairs on the alignment
    named: Mapping[int, int]  # the pairs of the same name
    pinned: Mapping[int, int]  # those among them that names may decide
    regions: tuple[Sequence[str], Sequence[str]]  # the part of the network that each unit of either side lies in
    sequences: tuple[Order, Order]
    orderly: bool  # the two sequences agree from end to end: then order itself tells rivals apart
    # Units of either side in whose row something was put in or taken out, with a place from its start and one from its end.
    contested: tuple[Container[int], Container[int]] = ((), ())
    partners: AbstractSet[Index] = frozenset()  # pairs at one place of such rows
    opposite: AbstractSet[tuple[str, str]] = frozenset()  # paths of lists that the two sides count from opposite ends
    beside: Mapping[Index, Index] = field(default_factory=dict)  # pairs of norms, with those of their layers

    def is_in_order(self, i: int, j: int) -> bool:
        """Return whether both of a pair stand at one place: of the whole, or of rows that agree from one end."""
        return (i, j) in self.path or ((i, j) in self.partners and not self.is_contested(i, j))

    def is_contested(self, i: int, j: int) -> bool:
        """Return whether one of a pair has two places in its row."""
        return i in self.contested[0] or j in self.contested[1]


def judged(
    pairs: Sequence[Index],
    total: np.ndarray,
    evidence: Evidence,
    votes: tuple[np.ndarray, np.ndarray],
    context: Context,
) -> list[Pair]:
    """Return the pairs with all that speaks for and against them.

    Raises:
        UsageError: too many are alike to compare each with each.
    """
    judge = _Judge(pairs, total, evidence, votes, context)
    return [judge.pair(i, j) for i, j in pairs]


class _Judge:
    """Judges each pair by its rivals: the other units of either side that fit as well.

    A pair that agrees neither in sizes nor in name may not last: to other pairs its units count as unmatched.
    """

    def __init__(
        self,
        pairs: Sequence[Index],
        total: np.ndarray,
        evidence: Evidence,
        votes: tuple[np.ndarray, np.ndarray],
        context: Context,
    ) -> None:
        self._total, self._evidence, self._votes, self._context = total, evidence, votes, context
        self._sequences = context.sequences
        self._is_registered = all(order.registered for order in context.sequences)
        held = [(i, j) for i, j in pairs if evidence.fits[i, j] or context.named.get(i) == j]
        self._partners = dict(held), {j: i for i, j in held}
        self._left = openings(held, context.named, evidence, context.regions, context.sequences)
        moved = {pair for pair in pairs if self._left.leaves_its_place(*pair)}
        self._moved = moved | self._in_blocks_of(moved, pairs)
        self._elsewhere: dict[frozenset[Index], bool] = {}
        self._compared = Compared()

    def _in_blocks_of(self, some: Collection[Index], pairs: Iterable[Index]) -> set[Index]:
        """Return the pairs whose blocks are those of some of them."""
        ours, theirs = (order.blocks for order in self._sequences)
        ends = {(ours[i], theirs[j]) for i, j in some} - {("", "")}
        return {(i, j) for i, j in pairs if (ours[i], theirs[j]) in ends} if ends else set()

    def pair(self, i: int, j: int) -> Pair:
        """Return a pair with its evidence."""
        context, evidence, rivalry = self._context, self._evidence, self._rivalry(i, j)
        says_order = self._is_registered or rivalry.told_apart or rivalry.placed
        return Pair(
            source=i,
            target=j,
            fits=bool(evidence.fits[i, j]),
            named=context.named.get(i) == j,
            pinned=context.pinned.get(i) == j,
            name=float(evidence.names[i, j]),
            clash=bool(evidence.clash[i, j]),
            block=float(self._votes[0][i, j]),
            tail=float(self._votes[1][i, j]),
            in_order=says_order and context.is_in_order(i, j),
            listed=any(order.blocks[at] for order, at in zip(self._sequences, (i, j), strict=True)),
            rare=float(evidence.rare[i, j]),
            stem=bool(evidence.stems[i, j]),
            beside=context.beside.get((i, j)),
            rivalry=rivalry,
        )

    def _rivalry(self, i: int, j: int) -> Rivalry:
        context, evidence, pair = self._context, self._evidence, (i, j)
        contested = context.is_contested(i, j)
        column, row = self._total[:, j].copy(), self._total[i].copy()
        column[i] = row[j] = NEVER
        runner_up = int(column.argmax())
        rivals = [(side, k, self._partners[side].get(k)) for side in (0, 1) for k in rivals_of(i, j, evidence, side)]
        free = [(side, k) for side, k, other in rivals if other is None]
        near = [one for one in free if not self._stands_elsewhere(pair, *one)]
        others = {(k, other) if side == 0 else (other, k) for side, k, other in rivals if other is not None}
        self._compared.add(len(others), *pair, *self._sequences)
        return Rivalry(
            runner_up=runner_up if column[runner_up] > FITS else None,
            margin=float(self._total[i, j] - max(column.max(initial=0.0), row.max(initial=0.0))),
            adjoined=contested or pair in self._moved or self._left.is_adjoined(i, j),
            unquestioned=context.named.get(i) == j and not contested and self._left.is_unquestioned(i, j),
            told_apart=not free and all(self._by_order(pair, other) for other in others),
            behind=not free
            and all(at > order.last_in_lists >= 0 for order, at in zip(self._sequences, (i, j), strict=True)),
            unrivalled=all(self._is_other_path(pair, *one) or self._is_its_like(pair, *one) for one in near),
            placed=not near and all(self._by_place(pair, other) for other in others),
            outside=self._is_outside(pair, rivals),
            ended=self._ends_alike(pair, rivals),
            told_elsewhere=any(self._as_in_other_blocks(pair, other) for other in others),
            exchangeable=any(self._in_one_block(pair, other) or self._in_branches(pair, other) for other in others),
        )

    def _by_order(self, pair: Index, other: Index) -> bool:
        """Return whether order tells two pairs apart: both sides number their units, and other shapes lie between them.

        Modules with names of words may be registered in any order, `fc_out` before `fc_in`. A norm comes behind its layer,
        though: where the layers differ in shape, it is enough that one side numbers the norms.
        """
        context = self._context
        if not context.orderly or pair not in context.path or other not in context.path:
            return False
        if self._in_branches(pair, other):
            return False
        first, second = self._sequences
        numbered = first.numbered(pair[0], other[0]), second.numbered(pair[1], other[1])
        layers = first.layers[pair[0]], first.layers[other[0]]
        behind = any(numbered) and self._is_registered and None not in layers and layers[0] != layers[1]
        told = all(numbered) or behind
        return told and first.separates(pair[0], other[0])

    def _by_place(self, pair: Index, other: Index) -> bool:
        """Return whether another pair is in a different place, so that its units are no candidates for this pair.

        The first of these that applies decides:
        numbers, where both sides number the units of both pairs, and all numbers swapped give pairs, too: they rise together,
        or one falls in lists that the two sides count from opposite ends;
        other blocks, where the likes of both pairs are told by order, or only one pair has some: a shortcut of first blocks;
        shapes, where they fit only as they are;
        names, where a swap of partners would make them much less alike (or, within one block, much more);
        order, where both pairs are on the alignment: one unit lies in more lists than the other on both sides, or has the higher
        numbers on both, or other shapes lie between them. The last says nothing of branches whose names differ on the two
        sides, such as actor and critic, which are registered in any order, nor of branches that one side counts, or has in one
        module, as both directions of an LSTM. But for numbers, order says nothing of a side that doesn't come as registered.
        """
        (i, j), (ours, theirs), (first, second) = pair, other, self._sequences
        here = first.exchange(i, ours)
        there = second.exchange(j, theirs) if here else None
        if here and there and all(self._partners[0].get(a) == b for a, b in zip(here.likes, there.likes, strict=True)):
            return (here.rising == there.rising) != self._face_each_other(pair, other)
        if self._as_in_other_blocks(pair, other) or fit_only_so(pair, other, self._evidence):
            return True
        said, told = by_words(pair, other, self._evidence)
        if told:
            return True
        if said <= -SWAP_GAP and self._in_one_block(pair, other):
            return False
        if not (self._context.is_in_order(*pair) and self._context.is_in_order(*other)):
            return False
        deeper = first.depths[i] - first.depths[ours], second.depths[j] - second.depths[theirs]
        if deeper[0] * deeper[1] > 0 or (self._context.orderly and rank_alike(self._sequences, pair, other)):
            return True
        return not self._in_branches(pair, other) and self._are_apart(pair, other)

    def _face_each_other(self, pair: Index, other: Index) -> bool:
        """Return whether the lists at whose numbers two pairs stand are counted from opposite ends by the two sides."""
        if not self._context.opposite:
            return False
        ours, theirs = (order.list_called(a, b) for order, a, b in zip(self._sequences, pair, other, strict=True))
        return (ours, theirs) in self._context.opposite

    def _as_in_other_blocks(self, pair: Index, other: Index) -> bool:
        """Return whether other blocks tell two pairs of a block apart, and none says otherwise: a name means one thing in all."""
        first, second = self._sequences
        if not (first.in_one_member(pair[0], other[0]) and second.in_one_member(pair[1], other[1])):
            return False
        both = frozenset((pair, other))
        known = self._elsewhere.get(both)
        if known is None:
            said = self._told_by_likes(pair, other), self._told_by_likes(other, pair)
            known = self._elsewhere[both] = True in said and None not in said
        return known

    def _told_by_likes(self, pair: Index, other: Index) -> bool | None:
        """Return whether the likes of a pair are paired in other blocks that lack those of the other, or that order tells.

        None where one of them is paired with what the other's partner is there.
        Where a first block registers its shortcut before all else, the blocks behind it still say what its layers are.
        """
        first, second = self._sequences
        here, there = first.likes(pair[0], other[0]), second.likes(pair[1], other[1])
        exchanged = second.likes(other[1], pair[1]) if here else {}
        told = False
        for like, beside in here.items():
            partner = self._partners[0].get(like, -1)
            if partner in exchanged:
                return None
            if partner not in there:
                continue
            last = there[partner]
            if beside is None or last is None:
                told = told or beside is last
            elif self._partners[0].get(beside) == last:
                told = told or self._are_apart((like, partner), (beside, last))
        return told

    def _are_apart(self, pair: Index, other: Index) -> bool:
        """Return whether two pairs stand in order, with other shapes between them."""
        in_order = self._context.is_in_order(*pair) and self._context.is_in_order(*other)
        return in_order and all(order.separates(a, b) for order, a, b in zip(self._sequences, pair, other, strict=True))

    def _ends_alike(self, pair: Index, rivals: Iterable[tuple[int, int, int | None]]) -> bool:
        """Return whether both units are the first norm beside all lists, or the last, under any names.

        Pairs of one name that says otherwise are no rivals, nor those that stand at the other end on both sides.
        """
        first, second = self._sequences
        end = second.end_norm(pair[1])
        if not end or first.end_norm(pair[0]) != end:
            return False

        def may_change_places(side: int, rival: int, other: int | None) -> bool:
            ours, theirs = (rival, other) if side == 0 else (other, rival)
            if not self._is_registered or ours is None or theirs is None:
                return True
            if self._context.named.get(ours) == theirs:
                return second.end_norm(theirs) == end
            return not (first.stands_at(-end, ours) and second.stands_at(-end, theirs))

        return self._is_outside(pair, [one for one in rivals if may_change_places(*one)], under_two_names=True)

    def _is_outside(
        self, pair: Index, rivals: Iterable[tuple[int, int, int | None]], *, under_two_names: bool = False
    ) -> bool:
        """Return whether both units lie next to the lists under one name, while every rival lies inside a list there.

        So a last norm is told from the norms of the blocks, even where it is registered before them.
        """
        both = list(zip(self._sequences, pair, strict=True))
        if any(order.depths[at] for order, at in both):
            return False
        called = [order.called(at) for order, at in both]
        last = [canonical(order.segments[at][-1]) for order, at in both]
        if not under_two_names and last[0] != last[1] and called[0][1] != called[1][1]:
            return False
        around = [modules for modules, _ in called]
        if not all(
            any(_lies_in(block, part) for block in o.blocks) for part, o in zip(around, self._sequences, strict=True)
        ):
            return False
        units = [(side, at) for side, rival, other in rivals for side, at in ((side, rival), (1 - side, other))]
        return all(at is None or _lies_in(self._sequences[side].blocks[at], around[side]) for side, at in units)

    def _in_branches(self, pair: Index, other: Index) -> bool:
        """Return whether two pairs are the same layer of two branches that the two sides call by other words.

        Nor are branches in words those that the other side counts, unless letters count them (`rnn_a`, `rnn_b`) or one of them
        is called as the list or what it is in: `decoder_blocks` beside `blocks` may go on with the numbers of `blocks`.
        """
        ends = list(zip(self._sequences, pair, other, strict=True))
        numbered = [order.numbered(a, b) for order, a, b in ends]
        if all(numbered):
            return False
        branches = [order.branches(a, b) for order, a, b in ends]
        if all(number or _are_lettered(own) for number, own in zip(numbered, branches, strict=True)):
            return False
        counted = [2 * (order.list_called(a, b),) for order, a, b in ends]
        return any(branches) and _are_unlike(*(own or many for own, many in zip(branches, counted, strict=True)))

    def _in_one_block(self, pair: Index, other: Index) -> bool:
        return all(order.blocks[a] == order.blocks[b] for order, a, b in zip(self._sequences, pair, other, strict=True))

    def _stands_elsewhere(self, pair: Index, side: int, rival: int) -> bool:
        """Return whether both units have the same list numbers, and an unmatched rival has another number or lies in one list more."""
        here, there = (order.numbers[at] for order, at in zip(self._sequences, pair, strict=True))
        if here != there:
            return False
        depths = self._sequences[side].depths
        return depths[rival] > depths[pair[side]] or self._sequences[side].exchange(pair[side], rival) is not None

    def _is_other_path(self, pair: Index, side: int, rival: int) -> bool:
        """Return whether both units have one path apart from a prefix, and the rival differs from it in more than numbers.

        One side may have any prefix; where both have one, it must be what all paths of that side start with.
        """
        ours, theirs = (order.segments[at] for order, at in zip(self._sequences, pair, strict=True))
        if ours[0] != theirs[0]:
            ours, theirs = (path[order.root :] for order, path in zip(self._sequences, (ours, theirs), strict=True))
        size = min(len(ours), len(theirs))
        other = self._sequences[side].segments[rival][-size:]
        return ours[-size:] == theirs[-size:] and not all(
            a == b or (a.isdecimal() and b.isdecimal()) for a, b in zip(ours[-size:], other, strict=False)
        )

    def _is_its_like(self, pair: Index, side: int, rival: int) -> bool:
        """Return whether a rival is the same layer of another block, while the other unit of the pair lies in no block.

        What one side has once and the other in each block is meant for all; not `conv1` and `conv2` for two of three blocks.
        """
        here = self._sequences[side]
        if self._sequences[1 - side].depths[pair[1 - side]] or not here.depths[pair[side]]:
            return False
        own, other = (place_of(".".join(here.segments[at])) for at in (pair[side], rival))
        return own == other and self._paired_at[side][own] == 1

    @cached_property
    def _paired_at(self) -> list[Counter[str]]:
        """How many paired units of either side there are at a place, numbers set aside."""
        sides = zip(self._sequences, self._partners, strict=True)
        return [Counter(place_of(".".join(order.segments[at])) for at in held) for order, held in sides]


def _are_lettered(branches: Sequence[str]) -> bool:
    """Return whether two names differ in their last letter alone."""
    return bool(branches) and branches[0][:-1] == branches[1][:-1] != ""


def _are_unlike(here: Iterable[str], there: Iterable[str]) -> bool:
    """Return whether two branches of one side have no word in common with those of the other, one by one, or are none there."""
    return all({*canonical(one)}.isdisjoint(canonical(other)) for one, other in zip(here, there, strict=False))


def _lies_in(block: str, around: tuple[str, ...]) -> bool:
    """Return whether a member of a list lies in a module; none, an empty path, lies in no module."""
    return block != "" and tuple(block.split("."))[: len(around)] == around
