"""What the caller's rules say of places holds, whatever else speaks for another tensor."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace

from torchgraft.core.formatting import listed
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Match, Matching, Sides
from torchgraft.core.plan import Certainty, Step
from torchgraft.matching.names.naming import SAME_NAME
from torchgraft.matching.names.rules import Rules
from torchgraft.matching.names.said import Said
from torchgraft.matching.names.words import terms, terms_differ
from torchgraft.matching.tables.dialect import FACTOR, SQUARE, SUMMAND

Keys = tuple[str, ...]


def as_said(matching: Matching, said: Said, sides: Sides, of_values: Container[str]) -> Matching:
    """Return the matching with each of the pairs that the caller's rules make, certain, and no other tensor in their places.

    Nor does a layer that `layers=` puts at a number go to another one. What rules `of_values` doubt stays in doubt.
    """
    ours, theirs = ({leaf.name: leaf for leaf in side} for side in sides) if said.pairs else ({}, {})
    places = {ours[name].keys: theirs[to].keys for name, to in said.pairs.items()}
    matching = matching.without(_bent(matching.matches, places, said.rules))
    held = {(m.source.keys, key) for m in matching.matches for key in m.target.keys}
    lacking = [
        Match(target=theirs[to], source=ours[name], why=SAME_NAME)
        for name, to in said.pairs.items()
        if any((ours[name].keys, key) not in held for key in theirs[to].keys)
    ]
    if lacking:
        slots = {key for m in lacking for key in m.target.keys}
        parts = [m for m in matching.matches if not slots.isdisjoint(m.target.keys)]
        matching = matching.without(parts).with_more(lacking)
    meant = {key for keys in places.values() for key in keys}
    return replace(
        matching,
        matches=tuple([m if meant.isdisjoint(m.target.keys) else _sure(m, of_values) for m in matching.matches]),
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


def _sure(match: Match, of_values: Container[str]) -> Match:
    if match.certainty is Certainty.CERTAIN or match.why.doubted_by in of_values:
        return match
    return replace(match, certainty=Certainty.CERTAIN, why=replace(match.why, doubt="", doubted_by=""), alternatives=())


def said_in_other_terms(steps: Iterable[Step]) -> str:
    """Return which tensors are copied as the caller says, though their own names say that they hold other values; "" if none."""
    found = [
        f"{step.slot.name} <- {step.feeds[0].key}"
        for step in steps
        if step.why.rule == Ground.USER_RULE
        and len(step.feeds) == 1
        and not step.ops
        and terms_differ(_terms(step.feeds[0].key), _terms(step.slot.name))
    ]
    held = "a logarithm, an inverse, a deviation or a difference by one of the two names alone"
    return f"{listed(found)}: copied as you say, though this is {held}; values may differ in that" if found else ""


def _terms(name: str) -> frozenset[str]:
    return terms(name.rpartition(".")[2]) - {SQUARE, FACTOR, SUMMAND}
