"""Fused tensors that go over whole are as sure as it is that both sides pack their parts in the same order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from torchgraft.core.formatting import listed
from torchgraft.core.match import Leaf, Match, Matching, Sides
from torchgraft.core.names import above
from torchgraft.core.plan import Certainty
from torchgraft.core.specs import Shape
from torchgraft.matching.reviewing.finished import Finished
from torchgraft.matching.tables.packing import (
    Owners,
    any_named_fused,
    is_gated_stack,
    one_code,
    owners_of,
    packed_alike,
    packing_of,
    packing_of_leaf,
)
from torchgraft.matching.tables.stated import Models

FACTORS = (
    "it has the rows of {0}, which are put in another order here ({1}; {2}); merge_lora=True computes it into the weights, else "
    "load without it"
)
STACK = "as the names say, which means half by half in some code and row by row in other"


def with_packings_doubted(finished: Finished) -> Matching:
    """Return the matching with whole fused tensors likely where their name means several orders of parts.

    Under one name and in one shape both sides are taken for the same code, unless the classes of their attention are known
    to differ, or other code has the very names around it: then both classes must be known. A matrix that is stored the
    other way round comes from other code, and so do its parts.
    """
    matching, models = finished.matching, finished.models
    stacked = {m.target.name: STACK for m in matching.matches if _is_stack_of_other_name(m)}
    if models.stated.layouts or not (stacked or any_named_fused(m.target for m in matching.matches)):
        return matching
    owners = owners_of(finished.sides[0]), owners_of(finished.sides[1])
    said = {m.target.name: _disputed(m, owners, models) for m in matching.matches if m.target.part is None} | stacked
    if not any(said.values()):
        return matching
    return replace(
        matching, matches=tuple(_likely(m, text) if (text := said.get(m.target.name)) else m for m in matching.matches)
    )


def with_uncut_told(matching: Matching, sides: Sides, models: Models) -> Matching:
    """Return the matching with slots `blocked` that could be filled if the number of heads of fused tensors were known.

    Those are unmatched slots of one layer whose rows add up to those of a fused tensor of the file, and fused slots whose rows
    are those of unmatched tensors of one layer together. Where there are none, a remark names the file's fused tensors.
    """
    ours, theirs = matching.free_sources, matching.free_targets
    if not (any_named_fused(ours) or any_named_fused(theirs)):
        return matching
    cut = _of_unknown_heads(ours, sides[0], models.stated.heads, models.source_heads)
    joined = _of_unknown_heads(theirs, sides[1], models.stated.heads, models.target.heads_at)
    parts = _that_add_up(theirs, cut), _that_add_up(ours, joined)
    whole = {_size_of(one) for one in parts[1]}
    blocked: dict[str, str] = {}
    if parts[0]:
        blocked |= dict.fromkeys(
            [key for one in parts[0] for leaf in one for key in leaf.keys],
            _uncut(cut),
        )
    if parts[1]:
        slots = [leaf for leaf in joined if (leaf.role, leaf.shape) in whole]
        blocked |= dict.fromkeys(
            [key for leaf in slots for key in leaf.keys],
            "the rows go head by head, and how many heads there are isn't known; num_heads= tells, and the file's parts are joined",
        )
    if blocked or not cut:
        return replace(matching, blocked=blocked) if blocked else matching
    return replace(matching, notes=(*matching.notes, _uncut(cut)))


def _of_unknown_heads(
    free: Sequence[Leaf], side: Sequence[Leaf], stated: int | None, heads_at: Callable[[str], int | None]
) -> list[Leaf]:
    """Return fused tensors whose rows go by heads, the number of which isn't known."""
    if stated is not None or not any_named_fused(free):
        return []
    owners = owners_of(side)
    packed = ((leaf, packing_of_leaf(leaf, owners)) for leaf in free)
    return [leaf for leaf, packing in packed if packing and packing.groups == "heads" and heads_at(leaf.owner) is None]


def _that_add_up(free: Iterable[Leaf], fused: Iterable[Leaf]) -> list[list[Leaf]]:
    """Return tensors of one layer each whose rows are together those of one of the fused tensors."""
    whole = {(leaf.role, leaf.shape) for leaf in fused}
    together: dict[tuple[str, str, Shape], list[Leaf]] = {}
    for leaf in free if whole else ():
        if leaf.shape:
            together.setdefault((leaf.owner.rpartition(".")[0], leaf.role, leaf.shape[1:]), []).append(leaf)
    return [parts for parts in together.values() if len(parts) > 1 and _size_of(parts) in whole]


def _size_of(parts: Sequence[Leaf]) -> tuple[str, Shape]:
    return parts[0].role, (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


def _uncut(fused: Sequence[Leaf]) -> str:
    named = listed([leaf.name for leaf in fused], 3)
    return (
        f"{named}: the rows go head by head, and how many heads there are isn't known; num_heads= or source_model= tells, and "
        "they are cut into parts"
    )


def _is_stack_of_other_name(found: Match) -> bool:
    """Return whether gate and up of all experts go over whole between two names."""
    if found.certainty is not Certainty.CERTAIN or found.source.role == found.target.role:
        return False
    return is_gated_stack(found.source) or is_gated_stack(found.target)


def factors_packed_otherwise(finished: Finished) -> dict[str, str]:
    """Return what speaks against factors of adapters on fused layers of which the two sides order the rows differently."""
    matches, sides = finished.matching.matches, finished.sides
    if finished.models.stated.layouts or not any_named_fused(m.target for m in matches):
        return {}
    owners = owners_of(sides[0]), owners_of(sides[1])
    layers = _fused_layers(sides[0], owners[0]), _fused_layers(sides[1], owners[1])
    doubts = {}
    for match in matches if all(layers) else ():
        ours, theirs = _adapted(match.source, layers[0]), _adapted(match.target, layers[1])
        packings = [packing_of(path, known) for path, known in zip((ours, theirs), owners, strict=True)]
        if None not in packings and not packed_alike(*packings):
            doubts[match.target.name] = FACTORS.format(theirs, *(p.source for p in packings if p))
    return doubts


def _fused_layers(leaves: Sequence[Leaf], owners: Owners) -> dict[str, Shape]:
    """Return the modules of a fused name with the shape of the matrix that each is or holds."""
    paths = ((owners.layer_at(leaf.owner), leaf) for leaf in leaves if leaf.role == "weight")
    return {path: leaf.shape for path, leaf in paths if len(leaf.shape) == 2 and packing_of(path, owners)}


def _adapted(leaf: Leaf, layers: Mapping[str, Shape]) -> str:
    """Return the fused module that a tensor lies in whose rows are as many and whose columns are others; "" for none."""
    around = next((path for path in above(leaf.name) if path in layers), "")
    if not around or len(leaf.shape) != len(layers[around]):
        return ""
    (rows, columns), (own_rows, own_columns) = layers[around], leaf.shape
    return around if own_rows == rows and own_columns != columns else ""


def _disputed(found: Match, owners: tuple[Owners, Owners], models: Models) -> str:
    """Return where the order can be read that is contested, "" where there is nothing to doubt."""
    source, target = found.source, found.target
    if found.certainty is not Certainty.CERTAIN or source.part is not None:
        return ""
    theirs = packing_of_leaf(target, owners[1])
    if theirs is None or models.target.heads_at(target.owner) == 1:
        return ""
    ours = packing_of_leaf(source, owners[0])
    contested = [p for p in (ours, theirs) if p is not None and p.contested]
    told = not any(p.twins for p in contested) or bool(source.around and target.around)
    sure = told and one_code(source, target, owners) and packed_alike(ours, theirs)
    return contested[0].source if contested and not sure else ""


def _likely(found: Match, convention: str) -> Match:
    text = f"{found.why.text}; order of parts {convention}"
    return replace(found, certainty=Certainty.LIKELY, why=replace(found.why, text=text))
