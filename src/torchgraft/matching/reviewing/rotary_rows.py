"""Queries and keys that rotary embeddings turn, cut from a fused tensor of which nothing tells how its rows pair."""

from __future__ import annotations

from collections.abc import Iterable

from torchgraft.core.match import Match
from torchgraft.core.names import FREQUENCIES, ROTARY
from torchgraft.matching.names.words import canonical
from torchgraft.matching.reviewing.finished import Finished
from torchgraft.matching.tables.rotary import ROTATED

UNTOLD = (
    "rotary embeddings turn its rows in pairs, {0} tells, and nothing tells that the fused tensor and the ones apart have them "
    "in one order: source_model= with inputs= finds out"
)
# Transformers of images that add learned positions, too (EVA-02, Perception Encoder), come from code that pairs row beside row,
# and are converted to code that pairs half with half; those without (DINOv3) are not known in two ways.
LEARNED = "pos"
TURNING = frozenset({*FREQUENCIES, *ROTARY})


def rows_in_unknown_order(finished: Finished) -> dict[str, str]:
    """Return the queries and keys in doubt that are fused on one side only, if a buffer near by turns them.

    Code that fuses them may pair the rows half with half or row beside row, whatever the code does that keeps them apart;
    conversions between the two reorder them. What names say of the pairs is left to adapting.
    """
    matches = finished.matching.matches
    told = _around_buffers(finished.keys), _around_buffers(slot.name for slot in finished.models.target.slots)
    if not any(told) or not any(LEARNED in canonical(m.target.name) for m in matches):
        return {}
    return {m.target.name: text for m in matches if (text := _untold(m, *told))}


def _around_buffers(names: Iterable[str]) -> dict[str, str]:
    """Return the modules in which tables of rotary embeddings lie, one module deep, each with such a table."""
    found: dict[str, str] = {}
    for name in names:
        owner, _, role = name.rpartition(".")
        if role in TURNING:
            found.setdefault("".join(f"{part}." for part in owner.split(".")[:-1]), name)
    return found


def _untold(found: Match, ours: dict[str, str], theirs: dict[str, str]) -> str:
    """Return what speaks against a query or key that a buffer of either side turns, "" for all else."""
    source, target = found.source, found.target
    part = source.part or target.part
    if part is None or (source.part and target.part) or part.label not in ROTATED or source.rotary or target.rotary:
        return ""
    sides = ((ours, source.keys[0]), (theirs, target.keys[0]))
    tables = [table for around, name in sides for path, table in around.items() if name.startswith(path)]
    return UNTOLD.format(tables[0]) if tables else ""
