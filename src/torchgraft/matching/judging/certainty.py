"""From a judged pair to its certainty: certain, likely, or in doubt for a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import prod

from torchgraft.core.plan import NO_DOUBT, Certainty, Doubt
from torchgraft.matching.evidence.scores import STRANGE
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.judging.reasons import BESIDE, BY_ORDER, NO_MARGIN, OTHER_NAME
from torchgraft.matching.parts.units import Unit

# Likeness of names: from HINTING on they say something, from AKIN on they speak for the pair, from SAME on all words agree.
HINTING, AKIN, SAME = 0.35, 0.55, 0.9
# How rare shapes are of which the two sides have three: an embedding here, and the embedding and a tied head there; and those
# that each side has once.
FEW, ALONE = 0.6, 0.9
# Share of what is around a pair that is paired alike: below UNTOLD it says nothing, from AROUND on it speaks for the pair, and
# from MOSTLY on as a name does.
UNTOLD, AROUND, MOSTLY = 0.4, 0.5, 0.6
# Share of the total score by which a pair must lead its best rival.
MARGIN = 0.2
# From so many units on a module is a part of its own; so much of both parts must be paired with each other.
PART, MUTUAL = 8, 0.8
# From this share of the elements on that pairs of one name hold, a file is familiar.
FAMILIAR = 0.5
# So many units beside the lists, all called otherwise, are no coincidence: an embedding, a norm and a head.
SEVERAL = 3


@dataclass(frozen=True, slots=True)
class Sureness:
    """How sure a pair is; `doubt` says what is missing where it is in doubt."""

    certainty: Certainty
    doubt: Doubt = NO_DOUBT


CERTAIN, LIKELY = Sureness(Certainty.CERTAIN), Sureness(Certainty.LIKELY)


def sureness(pair: Pair, *, familiar: bool, unordered: bool) -> Sureness | None:
    """Return how sure a pair is; None: too little speaks for it.

    In a familiar file (most of it agrees by name) a leftover pair needs more than its shape. In an unordered one, or for such
    a model, that a pair is out of order says nothing against it.
    """
    if pair.named and pair.rivalry.unquestioned:
        return CERTAIN
    if pair.rivalry.adjoined:
        return _doubt(BESIDE)
    if pair.named:
        return _doubt(BY_ORDER) if unordered and not pair.pinned and not pair.rivalry.placed else LIKELY
    sure = (_left_over if familiar else _foreign)(pair, unordered=unordered)
    if pair.rivalry.ended and sure != CERTAIN:
        return LIKELY
    return _doubt(OTHER_NAME) if familiar and sure and pair.clash else sure  # `text_proj` is no `visual_proj`


def _left_over(pair: Pair, *, unordered: bool) -> Sureness | None:
    """Return how sure a pair is that names leave open in a file whose other names agree."""
    rivals = pair.rivalry
    if not pair.in_order and not rivals.outside and pair.block <= AROUND and pair.rare <= ALONE:
        return None  # the same words under another number, out of order, between blocks that don't agree otherwise
    told = _around(pair) > AROUND or pair.rare > ALONE
    if pair.name >= (AKIN if told else SAME):  # `norm` and `fc_norm` of one library are two things
        return _foreign(pair, unordered=unordered)
    if rivals.outside:
        return LIKELY
    if pair.in_order and _around(pair) > AROUND:
        return LIKELY if pair.name > HINTING else _doubt(OTHER_NAME)
    alone = pair.rare > ALONE and rivals.runner_up is None
    if alone and pair.stem:
        return LIKELY
    return _doubt(OTHER_NAME) if alone or (pair.in_order and pair.rare > FEW) else None


def _foreign(pair: Pair, *, unordered: bool) -> Sureness | None:
    """Return how sure a pair is by all the evidence there is."""
    rivals = pair.rivalry
    strange, alone = pair.name < STRANGE, pair.rare > ALONE
    if strange and not pair.in_order:
        if pair.stem and alone and rivals.runner_up is None:
            return LIKELY  # what alone reads an image, with a kernel of the same sizes, needs no name
        if _around(pair) < UNTOLD:  # a last norm doesn't stay fresh without a word
            return _doubt(OTHER_NAME) if alone or rivals.behind else None
        # a table of two kinds of tokens is no head for two classes, though nothing else has its shape
        if not pair.listed:
            return _doubt(OTHER_NAME)
    if (strange or rivals.exchangeable) and not (rivals.told_apart or rivals.placed):
        return _doubt(BY_ORDER)
    if rivals.told_apart and rivals.margin > MARGIN and _says_something(pair):
        return CERTAIN
    by_order = rivals.told_apart or (pair.in_order and not unordered)
    if rivals.outside or (rivals.margin > MARGIN and rivals.unrivalled and by_order):
        return LIKELY
    return LIKELY if rivals.placed and _is_far_ahead(pair, unordered=unordered) else _doubt(NO_MARGIN)


def _says_something(pair: Pair) -> bool:
    """Return whether anything speaks for a pair by itself: its name, what is around it, or order."""
    return pair.name > HINTING or _around(pair) > MOSTLY or pair.in_order


def _is_far_ahead(pair: Pair, *, unordered: bool) -> bool:
    """Return whether a pair stands before its rivals in order, by what other blocks tell, or by what agrees."""
    if pair.in_order or pair.rivalry.told_elsewhere:
        return True
    agreed = pair.name >= AKIN or min(pair.block, pair.tail) > AROUND
    return pair.rivalry.margin > (0.0 if pair.rivalry.told_apart else MARGIN) and (unordered or agreed)


def _around(pair: Pair) -> float:
    """Return how much of what is around a pair is paired alike: in its block, or at its place in all blocks."""
    return max(pair.block, pair.tail)


def _doubt(reason: Doubt) -> Sureness:
    return Sureness(Certainty.DOUBT, reason)


class Familiar:
    """Which parts of a file are familiar: named as in the model, so that what is left over there needs more than a shape.

    A file may be familiar as a whole and hold a part (a backbone, a second tower) that another library names: there, nothing
    agrees by name, and a pair is judged as in a foreign file. Nor is anything familiar beside the lists of a file of whose
    names only those inside the lists agree. `pinned` are the units of the same name.
    """

    def __init__(
        self, pairs: Iterable[Pair], pinned: Mapping[int, int], sources: Sequence[Unit], targets: Sequence[Unit]
    ) -> None:
        self._whole = _share(pinned, sources, targets) > FAMILIAR
        if not self._whole:
            return
        sides = (sources, set(pinned)), (targets, set(pinned.values()))
        beside = [{at for at, unit in enumerate(units) if not unit.blocks} for units, _ in sides]
        self._beside_is_foreign = all(
            len(units) >= SEVERAL and units.isdisjoint(named) for units, (_, named) in zip(beside, sides, strict=True)
        )
        around = [_parts(units) for units, _ in sides]
        self._parts = [[held[0] if held else "" for held in side] for side in around]
        self._sizes = [Counter(part for held in side for part in held) for side in around]
        self._named = [
            Counter(part for at, held in enumerate(side) if at in named for part in held)
            for side, (_, named) in zip(around, sides, strict=True)
        ]
        ours, theirs = around
        self._met = Counter(met for p in pairs for met in product(ours[p.source], theirs[p.target]))

    def holds(self, pair: Pair) -> bool:
        """Return whether a pair stands in what is familiar."""
        if not self._whole:
            return False
        parts = self._parts[0][pair.source], self._parts[1][pair.target]
        if not all(parts):
            return True
        sizes = [sizes[part] for sizes, part in zip(self._sizes, parts, strict=True)]
        named = [named[part] for named, part in zip(self._named, parts, strict=True)]
        known = any(2 * count > size for count, size in zip(named, sizes, strict=True))
        return known or self._met[parts] < MUTUAL * max(sizes)

    def is_foreign_beside_lists(self, pair: Pair) -> bool:
        """Return whether a pair of a familiar file stands beside all lists, where nothing at all is named as in the model."""
        return self._whole and self._beside_is_foreign and not pair.listed


def _share(pinned: Mapping[int, int], sources: Sequence[Unit], targets: Sequence[Unit]) -> float:
    if not pinned:
        return 0.0
    sizes = [Counter([leaf.shape for unit in units for leaf in unit.leaves.values()]) for units in (sources, targets)]
    whole = min(sum([count * prod(shape) for shape, count in side.items()]) for side in sizes)
    return sum([min(sources[i].numel, targets[j].numel) for i, j in pinned.items()]) / max(whole, 1)


def _parts(units: Sequence[Unit]) -> list[list[str]]:
    """Return for each unit the modules around it that are parts of their own, innermost first."""
    around = [list(accumulate(unit.path.split(".")[:-1], "{}.{}".format)) for unit in units]
    inside = Counter(path for paths in around for path in paths)
    return [[path for path in reversed(paths) if inside[path] >= PART] for paths in around]
