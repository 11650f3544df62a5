"""Matching where names alone don't settle it: the whole of both sides is aligned by shapes, names and neighbours."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby

from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.names import DERIVED_ROLES, natural_key
from torchgraft.core.plan import Alternative, Certainty, Why
from torchgraft.core.specs import Shape
from torchgraft.core.system.objects import maker
from torchgraft.matching.doubts import Doubts
from torchgraft.matching.evidence.trust import trusted
from torchgraft.matching.judging.certainty import (
    AKIN,
    CERTAIN,
    LIKELY,
    Familiar,
    Sureness,
    folded,
    sureness,
)
from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.names.prefixes import Naming
from torchgraft.matching.names.unwrapped import unwrapped
from torchgraft.matching.names.words import place_of
from torchgraft.matching.parts.leaves import cut
from torchgraft.matching.parts.models import Models
from torchgraft.matching.parts.shaped import cut_by_shape
from torchgraft.matching.parts.units import Unit, group, same_roles, shape_class
from torchgraft.matching.solving.large import solve_large
from torchgraft.matching.solving.read_as_blocks import read_as_blocks
from torchgraft.matching.solving.solve import Problem
from torchgraft.matching.tables.packing import any_named_fused, kept_whole, owners_of
from torchgraft.matching.tables.stated import sides_of

_make_match, _make_why = maker(Match), maker(Why)


def by_structure(sources: Sequence[Leaf], targets: Sequence[Leaf], naming: Naming, models: Models) -> Matching:
    """Return the best reading of all the evidence; what no evidence carries stays free on both sides."""
    seen = unwrapped(sources, naming, keep=models.source is not None)
    parted = {key for leaf in sources if leaf.name in naming.parted for key in leaf.keys}
    sources, named = seen.sources, seen.pairs
    source_units, target_units = _units(sources, targets, named, models)
    pinned = _pinned(source_units, target_units, named)
    unordered = _alphabetical(sources)
    if unordered:
        source_units = sorted(source_units, key=lambda u: natural_key(u.path))
        pinned = _pinned(source_units, target_units, named)
    pins = trusted(pinned, source_units, target_units)
    pairs = solve_large(
        Problem(sources=source_units, targets=target_units, named=pinned, pinned=pins, unordered=unordered)
    )
    units = source_units, target_units
    familiar = Familiar(pairs, _pinned(*units, seen.plain), *units)
    sures: list[tuple[Pair, Sureness]] = []
    for pair in pairs:
        strict = familiar.holds(pair) and not _is_named_part(pair, source_units[pair.source], target_units[pair.target])
        sure = sureness(pair, familiar=strict, unordered=unordered)
        if (sure == CERTAIN and parted and _is_of(source_units[pair.source], parted)) or (
            sure is None and familiar.is_moved_out(pair)
        ):
            sure = LIKELY
        if sure is not None:
            sures.append((pair, sure))
    doubts = Doubts([pair for pair, _ in sures if pair.fits or pair.named], units, unordered=unordered)
    matches: list[Match] = []
    for pair, found_sure in sures:
        lacking = doubts.of(pair)
        sure = folded(found_sure, lacking) if lacking else found_sure
        if not (sure.doubt and _is_harmless(target_units[pair.target])):
            matches += _leaf_matches(pair, sure, source_units, target_units)
    fed = {m.target.name for m in matches}
    used = {m.source.name for m in matches}
    found = Matching(
        matches=tuple(matches),
        free_targets=tuple(leaf for u in target_units for leaf in u.leaves.values() if leaf.name not in fed),
        free_sources=tuple(leaf for u in source_units for leaf in u.leaves.values() if leaf.name not in used),
    )
    return seen.back(found)


def _units(
    sources: Sequence[Leaf], targets: Sequence[Leaf], named: Mapping[str, str], models: Models
) -> tuple[list[Unit], list[Unit]]:
    """Return the units of both sides; fused tensors that agree by name and shape stay whole, all others are cut."""
    by_target = {leaf.name: leaf for leaf in targets}
    pairs = [(a, by_target[named[a.name]]) for a in sources if a.name in named]
    fused = bool(models.stated.layouts) or any_named_fused(leaf for pair in pairs for leaf in pair)
    owners = (owners_of(sources), owners_of(targets)) if fused else ({}, {})
    stated = sides_of(models.stated, sources, targets)
    same = [
        (a, b)
        for a, b in pairs
        if a.shape == b.shape
        and kept_whole((a, b), (stated.source.of(a, owners[0]), stated.target.of(b, owners[1])), owners)
    ]
    whole = {a.name for a, _ in same}, {b.name for _, b in same}
    also = _like_whole(same, sources, targets)
    whole = whole[0] | also[0], whole[1] | also[1]
    ours = cut(sources, whole[0], models.source_heads, stated.source)
    theirs = cut(targets, whole[1], models.target.heads_at, stated.target)
    needless = _needlessly_cut(ours, theirs, sources, targets)
    if any(needless):
        ours = cut(sources, whole[0] | needless[0], models.source_heads, stated.source)
        theirs = cut(targets, whole[1] | needless[1], models.target.heads_at, stated.target)
    ours, theirs = cut_by_shape(ours, theirs, whole[0]), cut_by_shape(theirs, ours, whole[1])
    return read_as_blocks(group(ours, theirs), group(theirs, ours))


def _like_whole(
    same: Sequence[tuple[Leaf, Leaf]], sources: Sequence[Leaf], targets: Sequence[Leaf]
) -> tuple[set[str], set[str]]:
    """Return the tensors of both sides that are left where others of their list stay whole, and are like those.

    Where a layer was put into a list, its last members have no like of the same number: cut, they would find only each other.
    """
    if not same:
        return set(), set()
    kinds = {(_kind(a), _kind(b)) for a, b in same}
    paired = {a.name for a, _ in same}, {b.name for _, b in same}
    left: tuple[dict[object, set[str]], dict[object, set[str]]] = ({}, {})
    for side, leaves in enumerate((sources, targets)):
        shapes = {pair[side].shape for pair in same}
        for leaf in leaves:
            if leaf.shape in shapes and leaf.name not in paired[side]:
                left[side].setdefault(_kind(leaf), set()).add(leaf.name)
    both = [(left[0][a], left[1][b]) for a, b in kinds if a in left[0] and b in left[1]]
    return {name for ours, _ in both for name in ours}, {name for _, theirs in both for name in theirs}


def _kind(leaf: Leaf) -> tuple[str, Shape]:
    """Return what tensors at the same place of a list have in common."""
    return place_of(leaf.name), leaf.shape


def _needlessly_cut(
    ours: Sequence[Leaf], theirs: Sequence[Leaf], sources: Sequence[Leaf], targets: Sequence[Leaf]
) -> tuple[set[str], set[str]]:
    """Return the tensors of either side whose parts have shapes that the other side lacks, while the whole has not.

    A name for fused tensors may stand for something else, or the other side call the same fused tensor otherwise.
    """
    if all(leaf.part is None for side in (ours, theirs) for leaf in side):
        return set(), set()
    there = {shape_class(leaf.shape) for leaf in ours}, {shape_class(leaf.shape) for leaf in theirs}
    found: tuple[set[str], set[str]] = set(), set()
    for side, (parts, leaves) in enumerate(((ours, sources), (theirs, targets))):
        other = there[1 - side]
        foreign = {leaf.keys for leaf in parts if leaf.part is not None and shape_class(leaf.shape) not in other}
        found[side].update(leaf.name for leaf in leaves if leaf.keys in foreign and shape_class(leaf.shape) in other)
    return found


def _pinned(sources: Sequence[Unit], targets: Sequence[Unit], named: Mapping[str, str]) -> dict[int, int]:
    at = {leaf.name: j for j, unit in enumerate(targets) for leaf in unit.leaves.values()}
    pinned: dict[int, int] = {}
    for i, unit in enumerate(sources):
        places = {at.get(named.get(leaf.name, "")) for leaf in unit.leaves.values()} - {None}
        if len(places) == 1:
            pinned[i] = places.pop()  # type: ignore[assignment]
    return pinned


def _alphabetical(leaves: Sequence[Leaf]) -> bool:
    """Return whether names are sorted: all of them, or those of each element type, as safetensors writes them."""
    if len(leaves) <= 8:
        return False
    runs = [[leaf.keys[0] for leaf in run] for _, run in groupby(leaves, key=lambda leaf: leaf.dtype)]
    return all(run == sorted(run) for run in runs) and len(runs) <= len({leaf.dtype for leaf in leaves})


def _is_named_part(pair: Pair, source: Unit, target: Unit) -> bool:
    """Return whether one is a part of a fused tensor and names are akin: a part has fewer words than a tensor apart."""
    leaves = (*source.leaves.values(), *target.leaves.values())
    return pair.name >= AKIN and any(leaf.part is not None for leaf in leaves)


def _is_of(unit: Unit, keys: Container[str]) -> bool:
    return any(key in keys for leaf in unit.leaves.values() for key in leaf.keys)


def _is_harmless(unit: Unit) -> bool:
    return all(leaf.role in DERIVED_ROLES for leaf in unit.leaves.values())


def _leaf_matches(pair: Pair, sure: Sureness, sources: Sequence[Unit], targets: Sequence[Unit]) -> list[Match]:
    source, target = sources[pair.source], targets[pair.target]
    why = _why(pair, source, target)
    why = replace(why, doubt=sure.doubt) if sure.doubt else why
    alternatives: tuple[Alternative, ...] = ()
    if pair.rival is not None and sure.certainty is not Certainty.CERTAIN:
        rival = sources[pair.rival]
        keys = tuple(k for leaf in rival.leaves.values() for k in leaf.keys)
        alternatives = (Alternative(keys, f"{rival.path} has the same shapes"),)
    return [
        _make_match(target=b, source=a, why=why, certainty=sure.certainty, alternatives=alternatives)
        for a, b in same_roles(source, target)
    ]


def _why(pair: Pair, source: Unit, target: Unit) -> Why:
    evidence = []
    ours, theirs = source.block, target.block
    if pair.name > 0.5:
        evidence.append(_names_alike(pair.name))
    if pair.in_order:
        evidence.append("same place in the order")
    if pair.block > 0.5 and ours:
        evidence.append(_blocks_agree(ours, theirs, pair.block))
    if pair.tail > 0.5:
        evidence.append(_tails_agree(source.tail, target.tail, pair.tail))
    if pair.named:
        return _make_why("name", "same name", tuple(evidence))
    here, there = source.tail, target.tail
    if here == there:
        text = f"{ours or source.path} stands where {theirs or target.path} does"
        return _make_why("sequence", text, tuple(evidence))
    return _make_why("structure", f"{here} corresponds to {there}", tuple(evidence))


# The units of a block come one after the other and say the same of it; so do those at one place of all blocks.
@lru_cache
def _names_alike(share: float) -> str:
    return f"names alike ({share:.0%})"


@lru_cache
def _blocks_agree(ours: str, theirs: str, share: float) -> str:
    return f"{ours} and {theirs} agree in {min(share, 1.0):.0%}"


@lru_cache
def _tails_agree(ours: str, theirs: str, share: float) -> str:
    return f"{ours or 'block'} is {theirs or 'block'} in {min(share, 1.0):.0%} of the cases"
