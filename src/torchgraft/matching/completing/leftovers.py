"""Pairs of what is left on both sides at last: vectors of modules whose weight was paired, and matrices alone of their shape."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import permutations

from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.names import DERIVED_ROLES, above, without_common_end, words
from torchgraft.core.plan import NO_DOUBT, Certainty, Doubt, Why
from torchgraft.core.specs import Shape
from torchgraft.matching.names.added_modules import AddedModules
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.names.words import canonical, terms, terms_differ
from torchgraft.matching.parts.units import shape_class
from torchgraft.matching.tables.dialect import ROLES

# What a module of layers holds; all else has a name of its own.
KNOWN = frozenset(ROLES.values())

UNTOLD = Doubt(
    "untold_leftover",
    "nothing else that is left has its shape, but neither its name nor what is paired beside it says so",
)
LONE = Doubt("lone_leftover", "nothing else that is left has its shape, but its name is another one")
SEVERAL = Doubt("several_leftovers", "as many of its shape are left on both sides, but their names are other ones")
# Words of all statistics, whatever they are of.
GATHERED = {"running", "moving"}
MOST_ALIKE = 3  # left of one shape; more are no layer that was renamed

# What is left of one shape in one block, by both.
Left = dict[tuple[str, Shape], list[Leaf]]


def with_leftovers(matching: Matching) -> Matching:
    """Return the matching with more pairs of what is left, by shape and by where the blocks around it went.

    Modules are paired one by one; where the weight of one goes here and its bias there (a head tied to an embedding, a
    bias kept beside the layer), the bias is left over. It is likely where the modules around correspond and it is called
    alike on both sides, or the same holds in all of several blocks; else in doubt.

    Most of a file may agree by name and one layer have another one (`words_out` for `lm_head`). To leave it fresh would
    load a model without its head; whether it is the same layer nobody knows but the caller, so that is in doubt, unless one
    side only has modules more around it.
    """
    if not matching.free_sources or not matching.free_targets:
        return matching
    went = _where_blocks_went(matching)
    matching = matching.with_more(_vector_pairs(matching, went))
    return matching.with_more(_lone_pairs(matching, went))


def _block(leaf: Leaf) -> str:
    """Return the innermost member of a list around a tensor, "" where there is none."""
    return next((path for path in above(leaf.name) if path.rpartition(".")[2].isdecimal()), "")


def _where_blocks_went(matching: Matching) -> Mapping[str, str]:
    """Return where each block of the file went, as far as that is one block; what stands in none stays in none."""
    went: dict[str, Counter[str]] = defaultdict(Counter)
    for m in matching.matches:
        went[_block(m.source)][_block(m.target)] += 1
    found = {block: to for block, places in went.items() if block for to, count in places.items()
             if to and 2 * count > places.total()}  # fmt: skip
    return found | {"": ""}


def _by_shape(free: Iterable[Leaf], block_of: Callable[[Leaf], str | None], *, vectors: bool) -> Left:
    """Return the free vectors, or the free matrices and kernels, whose block has a place on the other side."""
    found: Left = defaultdict(list)
    for leaf in free:
        shape = shape_class(leaf.shape) if vectors else leaf.shape
        if (len(shape) == 1) != vectors or not shape or leaf.role in DERIVED_ROLES:
            continue
        block = block_of(leaf)
        if block is not None:
            found[block, shape].append(leaf)
    return found


def _is_whole(leaf: Leaf) -> bool:
    return leaf.form == "plain" and leaf.part is None


# -- vectors of modules of which something else is paired


def _vector_pairs(matching: Matching, went: Mapping[str, str]) -> list[Match]:
    sources = _by_shape(_without_modules(matching.free_sources), lambda leaf: went.get(_block(leaf)), vectors=True)
    targets = _by_shape(_without_modules(matching.free_targets), _block, vectors=True)
    both = [(sources[at], targets[at]) for at in sources if at in targets]
    if not both:
        return []
    near = _Neighbours(matching, [leaf for pair in both for leaves in pair for leaf in leaves])
    pairs = [pair for ours, theirs in both for pair in _best_pairs(ours, theirs, near)]
    met = Counter((place_of(a.name), place_of(b.name)) for a, b, _ in pairs)
    left = [Counter(place_of(leaf.name) for group in side.values() for leaf in group) for side in (sources, targets)]
    found = []
    for a, b, alone in pairs:
        here, there = place_of(a.name), place_of(b.name)
        count, sizes = met[here, there], (left[0][here], left[1][there])
        said = bool(_roles(a) & _roles(b))
        if said or max(sizes) <= 2 * count:  # else most blocks have no such pair
            everywhere = min(sizes) == max(sizes) == count > 1 and not (b.is_buffer and _roles(b) & KNOWN)
            likely = alone and (said or everywhere) and not terms_differ(terms(a.role), terms(b.role))
            text = f"{a.name} is left where {b.name} is"
            found.append(_match(a, b, text, UNTOLD, Certainty.LIKELY if likely else Certainty.DOUBT))
    return found


def _without_modules(free: Sequence[Leaf]) -> list[Leaf]:
    """Return the free tensors without those of modules that are left as a whole: with a matrix, or a weight, and more."""
    left = Counter(leaf.owner for leaf in free)
    whole = {
        leaf.owner
        for leaf in free
        if left[leaf.owner] > 1 and (len(leaf.shape) > 1 or ROLES.get(leaf.role) == "weight")
    }
    return [leaf for leaf in free if leaf.owner not in whole and _is_whole(leaf)]


class _Neighbours:
    """Which modules around left-over tensors correspond: something in the one feeds something in the other."""

    def __init__(self, matching: Matching, leaves: Sequence[Leaf]) -> None:
        wanted = {path for leaf in leaves for path in above(leaf.name)}
        self._pairs = {
            (a, b)
            for m in matching.matches
            for a in wanted.intersection(above(m.source.name))
            for b in wanted.intersection(above(m.target.name))
        }
        self._goes: defaultdict[str, set[str]] = defaultdict(set)
        for m in matching.matches:
            self._goes[m.source.owner].add(m.target.owner)
        self._fed = {owner for owners in self._goes.values() for owner in owners}

    def depth(self, source: Leaf, target: Leaf) -> int:
        """Return how deep in both names the innermost modules are that hold the two and correspond; 0: none.

        Nor do they correspond where what is beside the two goes elsewhere on both sides.
        """
        to = self._goes.get(source.owner, ())
        if to and target.owner in self._fed and target.owner not in to:
            return 0
        pairs = ((a, b) for a in above(source.name) for b in above(target.name) if (a, b) in self._pairs)
        return max((a.count(".") + b.count(".") + 2 for a, b in pairs), default=0)


def _best_pairs(sources: Sequence[Leaf], targets: Sequence[Leaf], near: _Neighbours) -> list[tuple[Leaf, Leaf, bool]]:
    """Return the pairs in which each is the other's best, and whether one alone is; the only target takes the first of several."""
    depths = {(a.name, b.name): near.depth(a, b) if _may_be_one(a, b) else 0 for a in sources for b in targets}
    found: list[tuple[Leaf, Leaf, bool]] = []
    for b in targets:
        ours = [depths[a.name, b.name] for a in sources]
        best = sources[ours.index(max(ours))]
        theirs = [depths[best.name, other.name] for other in targets]
        alone = ours.count(max(ours)) == 1
        if 0 < max(ours) == max(theirs) and theirs.count(max(theirs)) == 1 and (alone or len(targets) == 1):
            found.append((best, b, alone))
    return found


def _may_be_one(source: Leaf, target: Leaf) -> bool:
    """Return whether the two may be the same thing of a module: a bias is no mean, and no buffer of another name."""
    ours, theirs = _roles(source), _roles(target)
    return bool(ours & theirs) or not (ours & KNOWN and (theirs & KNOWN or target.is_buffer))


def _roles(leaf: Leaf) -> set[str]:
    """Return what the last segment of a name says that a tensor is, and its words; not that it is gathered in training."""
    return {ROLES.get(word, word) for word in (leaf.role, *words(leaf.role))} - GATHERED


# -- matrices and kernels that are the only ones of their shape


def _lone_pairs(matching: Matching, went: Mapping[str, str]) -> list[Match]:
    theirs = _by_shape((leaf for leaf in matching.free_targets if not leaf.is_buffer), _block, vectors=False)
    shapes = {shape for _, shape in theirs}
    if not any(leaf.shape in shapes or leaf.shape[::-1] in shapes for leaf in matching.free_sources):
        return []
    ours = _by_shape(matching.free_sources, lambda leaf: went.get(_block(leaf)), vectors=False)
    alike = [(ours[at], theirs[at]) for at in theirs if 0 < len(ours.get(at, ())) == len(theirs[at]) <= MOST_ALIKE]
    lone = [(here[0], there[0]) for here, there in alike if len(here) == 1]
    lone += _turned(ours, theirs, {m.target.owner for m in matching.matches})
    several = [pair for here, there in alike if len(here) > 1 for pair in _most_alike(here, there)]
    matched = ((m.source.name, m.target.name) for m in matching.matches)
    added = AddedModules(matched, [leaf.name for leaf in matching.free_targets])
    found = []
    for pairs, doubt in ((lone, LONE), (several, SEVERAL)):
        held = [(a, b) for a, b in pairs if _is_whole(a) and _is_whole(b) and not added.have(a.name, b.name)]
        found += [
            _match(a, b, f"{a.name} and {b.name} are left, of one shape", doubt, _sure(a, b, doubt, matching))
            for a, b in (*held, *_beside(held, matching))
        ]
    return found


def _sure(source: Leaf, target: Leaf, doubt: Doubt, matching: Matching) -> Certainty:
    """Return how sure a pair of leftovers is: likely where it is alone and one has the other's name, with modules more around it.

    But not where more is left around the shorter name of what such a module holds on both sides: another one was added.
    """
    shorter, longer = sorted((leaf.name.split(".") for leaf in (source, target)), key=len)
    size = 2 if source.role in ROLES else 1
    rest = iter(longer)
    alike = shorter[-size:] == longer[-size:] and all(part in rest for part in shorter)
    likely = alike and doubt is LONE and not _is_of_a_copy(source, target, matching)
    return Certainty.LIKELY if likely else Certainty.DOUBT


def _is_of_a_copy(source: Leaf, target: Leaf, matching: Matching) -> bool:
    """Return whether more is left beside one of the two that the module of the other holds on both sides."""
    held = {m.target.name for m in matching.matches if m.source.name == m.target.name}
    free = {leaf.name for leaf in (*matching.free_sources, *matching.free_targets)} - {source.name, target.name}
    modules = [f"{path}." if path else "" for path in without_common_end(source.name, target.name)]
    return any(
        name.startswith(here) and there + name[len(here) :] in held
        for here, there in (modules, modules[::-1])
        for name in free
    )


def _most_alike(ours: Sequence[Leaf], theirs: Sequence[Leaf]) -> Iterator[tuple[Leaf, Leaf]]:
    """Yield the pairs, as many as there are, whose names have most words in common; else in the order of both sides."""
    said = [set(canonical(leaf.owner)) for leaf in (*ours, *theirs)]
    order = max(
        permutations(range(len(ours))),
        key=lambda order: sum(len(said[a] & said[len(ours) + b]) for a, b in enumerate(order)),
    )
    return ((ours[a], theirs[b]) for a, b in enumerate(order))


def _turned(ours: Left, theirs: Left, fed: Container[str]) -> list[tuple[Leaf, Leaf]]:
    """Return matrices alone of their two sizes, the other way round, where the layer's bias found its place: ONNX's have no name."""
    found = []
    for (block, shape), leaves in theirs.items():
        way_back = (block, shape[::-1])
        if len(shape) == 2 and shape != shape[::-1] and len(leaves) == 1 and leaves[0].owner in fed:
            turned = ours.get(way_back, [])
            if len(turned) == 1 and (block, shape) not in ours and way_back not in theirs:
                found.append((turned[0], leaves[0]))
    return found


def _beside(pairs: Iterable[tuple[Leaf, Leaf]], matching: Matching) -> list[tuple[Leaf, Leaf]]:
    """Return what else is left of the same modules under one role and of one shape."""
    ours = {(leaf.owner, leaf.role): leaf for leaf in matching.free_sources}
    return [
        (source, leaf)
        for a, b in pairs
        for leaf in matching.free_targets
        if leaf.owner == b.owner and leaf.role != b.role
        and (source := ours.get((a.owner, leaf.role))) is not None and source.shape == leaf.shape
    ]  # fmt: skip


def _match(source: Leaf, target: Leaf, text: str, doubt: Doubt, certainty: Certainty) -> Match:
    why = Why(Ground.LEFTOVER, text).in_doubt(doubt if certainty is Certainty.DOUBT else NO_DOUBT)
    return Match(target=target, source=source, why=why, certainty=certainty)
