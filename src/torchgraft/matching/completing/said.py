"""What the caller's rules say of places holds, whatever else speaks for another tensor, and nothing is surer for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.plan import Certainty, Doubt
from torchgraft.matching.judging.certainty import OTHER_NAME
from torchgraft.matching.names.naming import SAME_NAME
from torchgraft.matching.names.rules import Rules

Keys = tuple[str, ...]

# Rules of doubt that say of values that they may mean something else, however sure it is which tensor is meant.
OF_VALUES = frozenset({"folded_norms", "fused_norms", "in_other_terms"})


def as_said(
    matching: Matching, said: Mapping[str, str], sides: tuple[Iterable[Leaf], Iterable[Leaf]], rules: Rules
) -> Matching:
    """Return the matching with each of the pairs that are `said`, certain, and no other tensor in their places.

    `said` are pairs of names, of leaves on both sides. Nor does a layer that `layers=` puts at a number go to another one.
    """
    ours, theirs = ({leaf.name: leaf for leaf in side} for side in sides) if said else ({}, {})
    places = {ours[name].keys: theirs[to].keys for name, to in said.items()}
    bent = _bent(matching.matches, places, rules)
    matching = _without(matching, bent)
    held = {(m.source.keys, key) for m in matching.matches for key in m.target.keys}
    lacking = [
        Match(target=theirs[to], source=ours[name], why=SAME_NAME)
        for name, to in said.items()
        if any((ours[name].keys, key) not in held for key in theirs[to].keys)
    ]
    if lacking:
        slots = {key for m in lacking for key in m.target.keys}
        parts = [m for m in matching.matches if not slots.isdisjoint(m.target.keys)]
        matching = _without(matching, parts).with_more(lacking)
    meant = {key for keys in places.values() for key in keys}
    return replace(
        matching, matches=tuple([m if meant.isdisjoint(m.target.keys) else _sure(m) for m in matching.matches])
    )


def _bent(matches: Iterable[Match], places: Mapping[Keys, Keys], rules: Rules) -> list[Match]:
    """Return the matches of which one end is said to be another's, or that lead a layer to another number than was said.

    `places` are the slots that are said to be those of keys of the file.
    """
    taken = {slot: keys for keys, slots in places.items() for slot in slots}
    return [
        m for m in matches
        if not set(places.get(m.source.keys, m.target.keys)).issuperset(m.target.keys)
        or any(taken.get(slot, m.source.keys) != m.source.keys for slot in m.target.keys)
        or (m.source.keys not in places and rules.moves(m.source.name, m.target.name))
    ]  # fmt: skip


def _without(matching: Matching, gone: Collection[Match]) -> Matching:
    """Return the matching without some of its matches, whose ends are free."""
    if not gone:
        return matching
    left = tuple([m for m in matching.matches if m not in gone])
    used, fed = {m.source.name for m in left}, {m.target.name for m in left}
    return replace(
        matching,
        matches=left,
        free_sources=(
            *matching.free_sources,
            *{m.source.name: m.source for m in gone if m.source.name not in used}.values(),
        ),
        free_targets=(
            *matching.free_targets,
            *{m.target.name: m.target for m in gone if m.target.name not in fed}.values(),
        ),
    )


def _sure(match: Match) -> Match:
    if match.certainty is Certainty.CERTAIN or match.why.doubted_by in OF_VALUES:
        return match
    return replace(match, certainty=Certainty.CERTAIN, why=replace(match.why, doubt="", doubted_by=""), alternatives=())


DISPLACED = Doubt(
    "displaced",
    "what you said gives its place, or the tensor that would fill this one without it, to others: say where this one goes, too",
)


def displaced(matching: Matching, plain: Matching, spoken: AbstractSet[str], kept: Iterable[Leaf]) -> Matching:
    """Return the matching with what only goes where it does since the caller said something else, in doubt.

    So is what is in doubt without his rules, where these say nothing new, or where the doubt is about the pair's own name.
    `plain` is what would be found without rules, `spoken` are the keys of the file that rules speak of, and `kept` what of the
    model nothing of the file may fill.
    """
    places = {key for leaf in kept for key in leaf.keys}
    places.update(key for m in matching.matches if not spoken.isdisjoint(m.source.keys) for key in m.target.keys)
    sure = [m for m in plain.matches if m.certainty is not Certainty.DOUBT]
    goes, comes = {m.source.keys: m.target.keys for m in sure}, {m.target.keys: m.source.keys for m in sure}
    new = _is_new(matching, plain, spoken, places)
    still = {_ends(m): m for m in plain.matches if not new or m.why.doubted_by == OTHER_NAME.rule}
    doubts: dict[str, Doubt] = {}
    for m in matching.matches:
        ours, theirs = _ends(m)
        if m.certainty is Certainty.DOUBT or not spoken.isdisjoint(ours):
            continue
        gone, come = goes.get(ours, theirs), comes.get(theirs, ours)
        before = still.get((ours, theirs))
        if (gone != theirs and not places.isdisjoint(gone)) or (come != ours and not spoken.isdisjoint(come)):
            doubts[m.target.name] = DISPLACED
        elif before is not None and before.certainty is Certainty.DOUBT:
            doubts[m.target.name] = Doubt(before.why.doubted_by, before.why.doubt)
    return matching.in_doubt(doubts)


def _is_new(matching: Matching, plain: Matching, spoken: AbstractSet[str], places: AbstractSet[str]) -> bool:
    """Return whether what the caller said differs from what is found for sure without it."""
    now = {_ends(m) for m in matching.matches if not spoken.isdisjoint(m.source.keys)}
    before = [m for m in plain.matches if not (spoken.isdisjoint(m.source.keys) and places.isdisjoint(m.target.keys))]
    if any(m.certainty is Certainty.DOUBT for m in before):
        return True
    return now != {_ends(m) for m in before if not spoken.isdisjoint(m.source.keys)}


def _ends(match: Match) -> tuple[Keys, Keys]:
    return match.source.keys, match.target.keys
