"""Modules of other names of which only what was left over at last is in doubt: then the rest is, too."""

from __future__ import annotations

from torchgraft.core.grounds import Ground
from torchgraft.core.match import Match
from torchgraft.core.plan import Certainty
from torchgraft.matching.names.lists import is_one_path
from torchgraft.matching.reviewing.finished import Finished, ModulePair

WITH = "{0} goes to {1} with it, and that is in doubt: {2}"

# What pairs by a name, and by what is left at last.
BY_NAME = frozenset({Ground.NAME, Ground.SAME_NAME, Ground.PREFIX, Ground.WRAPPER})


def beside_leftovers(finished: Finished) -> dict[str, str]:
    """Return the slots in doubt of modules of which another part is a doubtful leftover: half of an attention is none.

    What names pair stays, and so does what lies deeper, or in modules of the same name.
    """
    matches = finished.matching.matches
    left = {_around(m): m for m in matches if m.certainty is Certainty.DOUBT and m.why.rule == Ground.LEFTOVER}
    left.pop(None, None)
    return {
        m.target.name: WITH.format(found.source.name, found.target.name, found.why.doubt)
        for m in (matches if left else ())
        if m.certainty is not Certainty.DOUBT and m.why.rule not in BY_NAME
        for found in [left.get((m.source.owner, m.target.owner)) or left.get(_around(m))]
        if found is not None
    }  # fmt: skip


def _around(found: Match) -> ModulePair | None:
    """Return the modules around the layers of a match; None where they have one name, or there are none."""
    ours, theirs = (leaf.owner.rpartition(".")[0] for leaf in (found.source, found.target))
    return (ours, theirs) if ours and theirs and not is_one_path(ours, theirs) else None
