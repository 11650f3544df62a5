"""Rotary pairs of queries and keys: their rows reordered where file and model pair them in two ways."""

from __future__ import annotations

from dataclasses import replace

from torchgraft.adapting.fit import Fit
from torchgraft.adapting.tables import HALVED, PAIRED
from torchgraft.core.match import EITHER, Leaf
from torchgraft.core.plan import Certainty, least_certain
from torchgraft.ops import RotaryLayout

_NAMES = PAIRED | HALVED


def is_named(owner: str) -> bool:
    """Whether the path of a layer ends in a name of either convention, or in one of a layer inside it."""
    return not _NAMES.isdisjoint(owner.rsplit(".", 2)[-2:])


def names_differ(*owners: str) -> bool:
    """Whether paths of projections, or of layers in them, have names of both conventions: their rotary pairs would differ."""
    ends = {part for owner in owners for part in owner.rsplit(".", 2)[-2:]}
    return bool(ends & PAIRED and ends & HALVED)


def _owners(leaf: Leaf) -> list[str]:
    """Return the paths of a leaf's projection; a part's own path has the part's name, so that of the fused one is there, too."""
    return [leaf.owner, *(key.rpartition(".")[0] for key in leaf.keys)] if leaf.part else [leaf.owner]


def other_pairs(source: Leaf, target: Leaf) -> bool:
    """Whether both sides are known to pair the rows of a query or key, in two ways."""
    return bool(source.rotary and target.rotary and source.rotary.layout != target.rotary.layout)


def _one_name(source: Leaf, target: Leaf) -> bool:
    """Whether one name is the other, with modules around that only one side has."""
    short, long = sorted((source.name.split("."), target.name.split(".")), key=len)
    left = iter(long)
    return all(part in left for part in short)


def pairs_text(source: Leaf, target: Leaf) -> str:
    """Return which layouts the pairs go from and to and where they can be read, "" where they stay."""
    if source.rotary is None or target.rotary is None or not other_pairs(source, target):
        return ""
    ours, theirs = source.rotary, target.rotary
    return f"rotary pairs from {ours.layout} ({ours.convention}) to {theirs.layout} ({theirs.convention})"


def with_pairs(fit: Fit, source: Leaf, target: Leaf) -> Fit:
    """Return the fit with the rows in the order of the model's pairs.

    The layouts are read from names, which others may use for another layout: no more than likely. The same holds
    where only one side's is known, unless both have one name apart from modules around; where the other side's rows are cut from a
    fused tensor, that is in doubt, as code that fuses them under the same names pairs them in both ways. Without the number of
    heads nothing is filled.
    """
    if fit.ops is None:
        return fit
    if source.rotary is None and target.rotary is None:
        if target.part is None and not is_named(target.owner):
            return fit  # neither name tells, or both tell the same
        return _likely(fit) if names_differ(*_owners(source), *_owners(target)) else fit
    if source.rotary is None or target.rotary is None:
        return fit if _one_name(source, target) else _untold(fit, source, target)
    if not other_pairs(source, target):
        return fit
    ours, theirs = source.rotary, target.rotary
    if EITHER in (ours.layout, theirs.layout):
        text = (ours if ours.layout == EITHER else theirs).convention
        return replace(fit, text=f"its rows pair for rotary positions, but {text}", certainty=Certainty.DOUBT)
    if ours.fused or theirs.fused:
        text = (
            f"the file has rotary pairs {ours.layout}, the model {theirs.layout}, and which rows are queries and keys isn't "
            "known"
        )
        return replace(fit, ops=None, text=text, certainty=Certainty.DOUBT)
    heads = theirs.heads or ours.heads
    dim = target.part.dim if target.part else int(bool(target.turned) and len(target.shape) == 2)
    if not heads or target.shape[dim] % (2 * heads):
        text = (
            f"the file has rotary pairs {ours.layout}, the model {theirs.layout}, and the number of heads isn't known: "
            "num_heads= says it"
        )
        return replace(fit, ops=None, text=text, certainty=Certainty.DOUBT)
    reordered = RotaryLayout(heads=heads, to=theirs.layout, dim=dim)
    text = "; ".join(t for t in (fit.text, pairs_text(source, target)) if t)
    return _likely(replace(fit, ops=(*fit.ops, reordered), text=text))


def _untold(fit: Fit, source: Leaf, target: Leaf) -> Fit:
    """Return the fit as sure as it is where names tell the pairs of one side alone."""
    known, other = (source.rotary, target) if source.rotary else (target.rotary, source)
    if known is None or other.part is None:
        return _likely(fit)
    side = "model" if known is target.rotary else "file"
    text = (
        f"the {side}'s rows pair for rotary positions {known.convention}, and nothing tells how those of the fused tensor do: "
        "source_model= with inputs= finds out"
    )
    return replace(fit, text=text, certainty=Certainty.DOUBT)


def _likely(fit: Fit) -> Fit:
    """Return the fit as no more than likely."""
    return replace(fit, certainty=least_certain([fit.certainty, Certainty.LIKELY]))
