"""Fused tensors: parts cut out of them, parts joined to them, and how sure the order of their rows is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torchgraft.adapting.facts import Facts
from torchgraft.adapting.fit import Fit
from torchgraft.adapting.forms import reshape_to_matched
from torchgraft.adapting.rotary import other_pairs, pairs_text
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf, Match, Part
from torchgraft.core.plan import NO_DOUBT, Certainty, Doubt, Feed, Op, Step, least_certain
from torchgraft.core.specs import TensorSpec
from torchgraft.ops import Concat, HeadsToParts, InsertZeros, PartsToHeads, SliceDim

GUESSED = "the rows of the fused tensor are as many as those of the parts, but no name tells in which order they stand"
SETTLED_BY = "; qkv_layout= says it, 'flat' or 'per_head' (with num_heads=)"
TORN = Doubt(
    "torn_parts",
    "another part of the same fused tensor has other sizes in the model, so that this one may begin elsewhere",
)
SCATTERED = Doubt("scattered_parts", "its parts would come from several blocks of the file")


def order_certainty(match: Match) -> Certainty:
    """Return how sure the order of parts is in the fused tensors of a match."""
    parts = (match.source.part, match.target.part)
    if any(part and part.guessed for part in parts):
        return Certainty.DOUBT
    return Certainty.LIKELY if any(part and part.contested for part in parts) else Certainty.CERTAIN


def what_lacks(match: Match) -> Doubt:
    """Return what is missing where a match is in doubt."""
    if match.why.doubt or order_certainty(match) is not Certainty.DOUBT:
        return Doubt(match.why.doubted_by, match.why.doubt)
    labels = {part.label for part in (match.source.part, match.target.part) if part}
    return Doubt("guessed_order", GUESSED + SETTLED_BY if labels <= {"q", "k", "v"} else GUESSED)


def cut_ops(source: Leaf, facts: Facts) -> tuple[Op, ...]:
    """Return the ops that cut a part out of its fused tensor."""
    part = source.part
    if part is None:
        return ()
    apart = () if part.groups == 1 else (HeadsToParts(groups=part.groups, parts=part.sizes, dim=part.dim),)
    return (*reshape_to_matched(source, facts.specs), *apart, SliceDim(part.dim, part.start, part.stop, part.total))


def _pack_ops(part: Part) -> tuple[Op, ...]:
    """Return the op that puts joined parts in the order of rows that the fused tensor has."""
    return () if part.groups == 1 else (PartsToHeads(groups=part.groups, parts=part.sizes, dim=part.dim),)


def conventions(found: Sequence[Match]) -> list[str]:
    """Return where the orders of parts can be read that the matches rest on."""
    parts = (part for m in found for part in (m.source.part, m.target.part) if part)
    return list(dict.fromkeys(part.convention for part in parts if part.convention))


def fill_for_missing(ordered: Sequence[Match], spec: TensorSpec, *, keyed: bool) -> tuple[Op, ...] | None:
    """Return ops for the parts that the file lacks: none, or zeros for a key bias; None when others are missing.

    `keyed`: the matrix of the keys is there, so that its bias is not merely lost with it.

    A key bias shifts all scores of a query alike, which softmax takes out again: models with q_bias and v_bias leave
    it away (BEiT, Bao et al., 2021).
    """
    at, holes = 0, []
    for match in ordered:
        part = match.target.part
        if part is None:
            return None
        if part.start != at:
            holes.append((at, part.start - at))
        at = part.stop
    total = spec.shape[ordered[0].target.part.dim] if ordered[0].target.part else at
    if at != total:
        holes.append((at, total - at))
    if not holes:
        return ()
    labels = {m.target.part.label for m in ordered if m.target.part}
    if keyed and labels == {"q", "v"} and len(spec.shape) == 1 and len(holes) == 1:
        return (InsertZeros(0, *holes[0]),)
    return None


def joined_step(slot: str, ordered: Sequence[Match], fits: Sequence[Fit], zeros: tuple[Op, ...], facts: Facts) -> Step:
    """Return the step of a fused slot from its parts in their order; `zeros` stand for the part that the file lacks."""
    feeds = []
    for match, fit in zip(ordered, fits, strict=True):
        feeds.append(Feed(match.source.keys[0], (*cut_ops(match.source, facts), *(fit.ops or ())), facts.network))
    parts = [m.target.part for m in ordered if m.target.part]
    dim, sources = parts[0].dim, conventions(ordered)
    text = f"{' + '.join(part.label for part in parts)} joined in that order" + (", zeros for k" if zeros else "")
    text += f" ({'; '.join(sources)})" if sources else ""
    text += "".join(f"; {said}" for said in dict.fromkeys(pairs_text(m.source, m.target) for m in ordered) if said)
    sure = least_certain(
        [*(m.certainty for m in ordered), *(f.certainty for f in fits), *map(order_certainty, ordered)]
    )
    unfit = next((Doubt("form", f.text) for f in fits if f.certainty is Certainty.DOUBT), NO_DOUBT)
    lacking = what_lacks(_least_sure(ordered))
    scattered = len({_block_numbers(m.source) for m in ordered}) > 1
    return Step(
        slot=facts.slots[slot],
        feeds=tuple(feeds),
        ops=((Concat(dim),) if len(feeds) > 1 else ()) + zeros + _pack_ops(parts[0]),
        why=replace(_least_sure(ordered).why, rule=Ground.FUSED, text=text).in_doubt(
            SCATTERED if scattered else lacking or unfit
        ),
        certainty=Certainty.DOUBT if scattered else sure,
        alternatives=tuple(a for m in ordered for a in m.alternatives)[:3],
    )


def torn_parts(matches: Sequence[Match], steps: Mapping[str, Step]) -> dict[str, Step]:
    """Return the steps, in doubt, of parts of fused tensors of which another part has other sizes in the model."""
    cut: dict[tuple[str, ...], list[Step]] = defaultdict(list)
    for match in matches:
        if match.source.part is not None and match.target.part is None:
            cut[match.source.keys].append(steps[match.target.keys[0]])
    torn = [parts for parts in cut.values() if any(s.why.rule == Ground.SHAPE and not s.feeds for s in parts)]
    return {
        step.slot.name: replace(step, certainty=Certainty.DOUBT, why=step.why.in_doubt(TORN))
        for parts in torn for step in parts if step.feeds
    }  # fmt: skip


def _block_numbers(leaf: Leaf) -> tuple[str, ...]:
    """Return the numbers in the path of the layer around a part, which say in which block it is."""
    return tuple(word for word in leaf.owner.split(".")[:-1] if word.isdecimal())


def _least_sure(found: Sequence[Match]) -> Match:
    least = least_certain(match.certainty for match in found)
    return next(match for match in found if match.certainty is least)


def is_whole(ordered: Sequence[Match]) -> bool:
    """Whether all parts come, in place, from one source tensor that is cut alike."""
    first = ordered[0].source
    if first.part is None or len({m.source.keys for m in ordered}) != 1:
        return False
    ends = [(m.source.part, m.target.part) for m in ordered]
    if any(other_pairs(m.source, m.target) for m in ordered):
        return False
    alike = all(a and b and a.packing == b.packing for a, b in ends)
    alike &= all(a and b and (a.start, a.stop, a.total) == (b.start, b.stop, b.total) for a, b in ends)
    totals = {b.total for _, b in ends if b}
    return alike and totals == {sum(b.stop - b.start for _, b in ends if b)}
