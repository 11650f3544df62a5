"""One source tensor for several places: a table that the file shares and the model has once per block."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.plan import Why
from torchgraft.matching.dialect import HARMLESS_ROLES, ROLES


def spread(matching: Matching) -> Matching:
    """Return the matching with shared tensors sent to every block that has a place of that name and shape.

    The name must be one of its own kind (not weight or bias), a single source must bear it, and two or more places,
    in numbered blocks, must want it: then nothing else can be meant.
    """
    sources = [*(m.source for m in matching.matches), *matching.free_sources]
    bearers = Counter((leaf.role, leaf.shape) for leaf in {s.keys: s for s in sources}.values())
    wanting = [*(m.target for m in matching.matches if m.source.name != m.target.name), *matching.free_targets]
    places = Counter((leaf.role, leaf.shape) for leaf in wanting if _in_block(leaf))
    shared = {
        (leaf.role, leaf.shape): leaf
        for leaf in sources
        if leaf.role not in ROLES and leaf.role not in HARMLESS_ROLES and not _in_block(leaf)
        and bearers[leaf.role, leaf.shape] == 1 and places[leaf.role, leaf.shape] > 1
    }  # fmt: skip
    if not shared:
        return matching
    new = [_copy(leaf, shared) for leaf in matching.free_targets if _in_block(leaf) and (leaf.role, leaf.shape) in shared]
    kept = [_explained(m, shared) for m in matching.matches]
    fed = {m.target.keys for m in new}
    used = {m.source.keys for m in [*kept, *new]}
    return replace(
        matching,
        matches=(*kept, *new),
        free_targets=tuple(leaf for leaf in matching.free_targets if leaf.keys not in fed),
        free_sources=tuple(leaf for leaf in matching.free_sources if leaf.keys not in used),
    )


def _in_block(leaf: Leaf) -> bool:
    return any(part.isdecimal() for part in leaf.name.split("."))


def _why(source: Leaf) -> Why:
    return Why("shared", f"{source.name} is shared in the file, the model has one per block")


def _copy(target: Leaf, shared: dict[tuple[str, tuple[int, ...]], Leaf]) -> Match:
    source = shared[target.role, target.shape]
    return Match(target=target, source=source, why=_why(source))


def _explained(found: Match, shared: dict[tuple[str, tuple[int, ...]], Leaf]) -> Match:
    source = shared.get((found.target.role, found.target.shape))
    if source is None or source.keys != found.source.keys:
        return found
    return Match(target=found.target, source=source, why=_why(source))

