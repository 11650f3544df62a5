"""What goes elsewhere only since the caller said something of other places is in doubt: nothing is surer for such rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from torchgraft.core.match import Match, Matching
from torchgraft.core.plan import Certainty, Doubt
from torchgraft.matching.judging.reasons import OTHER_NAME
from torchgraft.matching.names.lists import is_one_path
from torchgraft.matching.names.said import Said

Keys = tuple[str, ...]

DISPLACED = Doubt(
    "displaced",
    "what you said gives its place, or the tensor that would fill this one without it, to others: say where this one goes, too",
)
TURNED_ROUND = Doubt(
    DISPLACED.rule,
    "copies= calls the place that the file has it for a copy of this one, which the file lacks: the original comes first, as in "
    "copies={'attn': 'added_attn'}",
)


def with_displaced_doubted(
    matching: Matching, said: Said, without_rules: Callable[[], Matching], keys: Iterable[str]
) -> Matching:
    """Return the matching with what only goes where it does since the caller said something else, in doubt.

    So is what is in doubt without the caller's rules, where these say nothing new, or where the doubt is about the pair's own
    name. `without_rules` finds what there is without them, which takes as long as the matching did: it is asked only where a
    tensor of which they don't speak has another name in the model. `keys` are all of the file.
    """
    speak = said.rules.speaker()
    spoken = {key for key in keys if speak(key, key)}
    if not any(_is_called_otherwise(m) and spoken.isdisjoint(m.source.keys) for m in matching.matches):
        return matching
    return _doubted(matching, without_rules(), spoken, said)


def _is_called_otherwise(found: Match) -> bool:
    """Whether the names of a pair that isn't in doubt differ by more than what stands before them."""
    return found.certainty is not Certainty.DOUBT and not is_one_path(found.source.keys[0], found.target.keys[0])


def _doubted(matching: Matching, plain: Matching, spoken: AbstractSet[str], said: Said) -> Matching:
    """Return the matching with what `plain`, found without rules, says otherwise in doubt; rules speak of `spoken` in the file."""
    places = {
        *said.kept,
        *(key for m in matching.matches if not spoken.isdisjoint(m.source.keys) for key in m.target.keys),
    }
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
            turned = [said.copied.get(key) for key in gone] == list(theirs)
            doubts[m.target.name] = TURNED_ROUND if turned else DISPLACED
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
