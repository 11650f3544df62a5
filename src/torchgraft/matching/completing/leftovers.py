"""Tensors that are left of modules of which others were paired: a bias whose weight is kept, or tied, elsewhere."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import takewhile

from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.names import DERIVED_ROLES, words
from torchgraft.core.plan import Certainty, Why
from torchgraft.core.specs import Shape
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.parts.units import shape_class
from torchgraft.matching.tables.dialect import ROLES

# What a module of layers holds; all else has a name of its own.
KNOWN = frozenset(ROLES.values())
# What two tensors have in common that are not the same thing of a module.
UNLIKE = (-1, -1)

DOUBT = "nothing else that is left has its shape, but neither its name nor what is paired beside it says so"


def with_leftovers(matching: Matching) -> Matching:
    """Return the matching with tensors paired that are left on both sides, alone of their shape where they belong.

    Modules are paired one by one; where the weight of one goes here and its bias there (a head tied to an embedding, a
    bias kept beside the layer), the bias is left over. It is likely where the modules around correspond and it is called
    alike on both sides, or the same holds in all of several blocks; else in doubt.
    """
    sources, targets = _vectors(matching.free_sources), _vectors(matching.free_targets)
    both = [(sources[shape], targets[shape]) for shape in sources if shape in targets]
    if not both:
        return matching
    partial = _partial(matching)
    open_ones = [pair for pair in both if any(leaf.name in partial for leaves in pair for leaf in leaves)]
    near = _Neighbours(matching, [leaf for pair in open_ones for leaves in pair for leaf in leaves])
    found = [m for ours, theirs in open_ones for m in _pairs(ours, theirs, near)]
    if not found:
        return matching
    return matching.with_more(found)


def _vectors(free: Sequence[Leaf]) -> dict[Shape, list[Leaf]]:
    """Return the free vectors by shape, without those of modules that are left as a whole: with a weight and more."""
    found: dict[Shape, list[Leaf]] = defaultdict(list)
    left = Counter(leaf.owner for leaf in free)
    whole = {leaf.owner for leaf in free if ROLES.get(leaf.role) == "weight" and left[leaf.owner] > 1}
    for leaf in free:
        shape = shape_class(leaf.shape)
        if leaf.owner in whole:
            continue
        if leaf.role not in DERIVED_ROLES and leaf.form == "plain" and leaf.part is None and len(shape) == 1:
            found[shape].append(leaf)
    return found


def _partial(matching: Matching) -> set[str]:
    """Return the names of the free tensors of modules of which something is paired, under any of its names."""
    found: set[str] = set()
    for free, paired in (
        (matching.free_sources, [m.source for m in matching.matches]),
        (matching.free_targets, [m.target for m in matching.matches]),
    ):
        owners = {owner for leaf in paired for owner in _owners(leaf)}
        found |= {leaf.name for leaf in free if owners.intersection(_owners(leaf))}
    return found


def _owners(leaf: Leaf) -> list[str]:
    return [name.rpartition(".")[0] for name in (leaf.name, *leaf.also)]


class _Neighbours:
    """Which modules around left-over tensors correspond: something in the one feeds something in the other."""

    def __init__(self, matching: Matching, leaves: Sequence[Leaf]) -> None:
        wanted = {path for leaf in leaves for path in _around(leaf)}
        self._pairs = {
            (a, b)
            for m in matching.matches
            for a in wanted.intersection(_around(m.source))
            for b in wanted.intersection(_around(m.target))
        }
        self._owners: tuple[dict[str, set[str]], dict[str, set[str]]] = {}, {}
        for m in matching.matches:
            self._owners[0].setdefault(m.source.owner, set()).add(m.target.owner)
            self._owners[1].setdefault(m.target.owner, set()).add(m.source.owner)

    def part(self, source: Leaf, target: Leaf) -> bool:
        """Return whether what is beside the two goes elsewhere on both sides, or their blocks don't correspond."""
        ours, theirs = _block(source), _block(target)
        if ours and theirs and (ours, theirs) not in self._pairs:
            return True
        to, by = self._owners[0].get(source.owner, set()), self._owners[1].get(target.owner, set())
        return bool(to and by) and target.owner not in to

    def depth(self, source: Leaf, target: Leaf) -> int:
        """Return how deep in both names the innermost modules are that hold the two and correspond; 0: none."""
        pairs = ((a, b) for a in _around(source) for b in _around(target) if (a, b) in self._pairs)
        return max((a.count(".") + b.count(".") + 2 for a, b in pairs), default=0)


def _block(leaf: Leaf) -> str:
    """Return the innermost member of a list around a tensor, "" where there is none."""
    return next((path for path in reversed(_around(leaf)) if path.rpartition(".")[2].isdecimal()), "")


def _around(leaf: Leaf) -> list[str]:
    parts = leaf.owner.split(".") if leaf.owner else []
    return [".".join(parts[: at + 1]) for at in range(len(parts))]


def _pairs(sources: Sequence[Leaf], targets: Sequence[Leaf], near: _Neighbours) -> list[Match]:
    """Return the pairs in which each is the other's best; one target takes the first of several that are as good."""
    own = {leaf.name for leaf in targets}
    fits = {
        (a.name, b.name): (near.depth(a, b), _alike(a, b))
        for a in sources
        for b in targets
        if _one_role(a, b) and (a.name == b.name or a.name not in own) and not near.part(a, b)
    }
    found: list[tuple[Leaf, Leaf, bool]] = []
    for b in targets:
        ours = [fits.get((a.name, b.name), UNLIKE) for a in sources]
        if max(ours) == UNLIKE:
            continue
        best = sources[ours.index(max(ours))]
        theirs = [fits.get((best.name, other.name), UNLIKE) for other in targets]
        if (
            theirs.count(max(ours)) == 1
            and max(theirs) == max(ours)
            and (len(targets) == 1 or ours.count(max(ours)) == 1)
        ):
            found.append((best, b, max(ours)[0] > 0 and ours.count(max(ours)) == 1))
    alike = _Alike([(a, b) for a, b, _ in found], sources, targets)
    called = [(a, b, near_by, bool(_roles(a) & _roles(b))) for a, b, near_by in found]
    return [
        _match(a, b, told=near_by and (said or alike.all_over(a, b)))
        for a, b, near_by, said in called
        if said or not alike.rare(a, b)
    ]


class _Alike:
    """How many pairs hold at the same two places of lists, beside the tensors that are left there."""

    def __init__(self, pairs: Sequence[tuple[Leaf, Leaf]], sources: Sequence[Leaf], targets: Sequence[Leaf]) -> None:
        self._pairs = Counter((place_of(a.name), place_of(b.name)) for a, b in pairs)
        self._left = [Counter(place_of(leaf.name) for leaf in side) for side in (sources, targets)]

    def all_over(self, source: Leaf, target: Leaf) -> bool:
        """Return whether the same holds in several blocks, and in all in which something is left there."""
        count, left = self._count(source, target)
        return min(left) == max(left) == count > 1

    def rare(self, source: Leaf, target: Leaf) -> bool:
        """Return whether in most of the blocks what is left there finds no such partner."""
        count, left = self._count(source, target)
        return max(left) > 2 * count

    def _count(self, source: Leaf, target: Leaf) -> tuple[int, tuple[int, int]]:
        places = place_of(source.name), place_of(target.name)
        return self._pairs[places], (self._left[0][places[0]], self._left[1][places[1]])


def _one_role(source: Leaf, target: Leaf) -> bool:
    """Return whether the two may be the same thing of a module: a bias is no mean, and no buffer of another name."""
    ours, theirs = _roles(source), _roles(target)
    if ours & theirs:
        return True
    return not (ours & KNOWN and (theirs & KNOWN or target.is_buffer))


def _roles(leaf: Leaf) -> set[str]:
    """Return what the last segment of a name says that a tensor is, and its words."""
    return {ROLES.get(word, word) for word in (leaf.role, *words(leaf.role))}


def _alike(source: Leaf, target: Leaf) -> int:
    """Return how many segments at the end of the source's name one of the target's names has, too."""
    ours = source.name.split(".")[::-1]
    names = [name.split(".")[::-1] for name in (target.name, *target.also)]
    return max(sum(1 for _ in takewhile(lambda ab: ab[0] == ab[1], zip(ours, name, strict=False))) for name in names)


def _match(source: Leaf, target: Leaf, *, told: bool) -> Match:
    why = Why("leftover", f"{source.name} is left where {target.name} is", doubt="" if told else DOUBT)
    return Match(target=target, source=source, why=why, certainty=Certainty.LIKELY if told else Certainty.DOUBT)
