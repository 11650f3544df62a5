"""From claims about leaves to one step per slot: parts are joined again, sizes are changed, forms are computed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from torchgraft.adapting.fit import Fit, Layout, exact_fit, is_matrix, mismatch, read_layout, resized_fit
from torchgraft.adapting.forms import Piece, pieces
from torchgraft.adapting.positions import Side, position_fit, read_side
from torchgraft.adapting.rows import row_fit
from torchgraft.core.plan import Certainty, Feed, Step, Why
from torchgraft.ops import Concat, Constant, Permute, SliceDim

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torchgraft.adapting.options import Options
    from torchgraft.core.match import Leaf, Match
    from torchgraft.core.plan import Op
    from torchgraft.core.specs import Slot, TensorSpec

_ORDER = {Certainty.CERTAIN: 0, Certainty.LIKELY: 1, Certainty.DOUBT: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What holds for all tensors of one plan."""

    specs: Mapping[str, TensorSpec]
    slots: Mapping[str, Slot]
    options: Options
    layout: Layout
    sides: tuple[Side, Side]
    first_conv: str
    network: str
    tails: Mapping[str, str]


@dataclass(slots=True)
class Draft:
    """Steps so far, and why source keys that were claimed stay unused all the same."""

    steps: dict[str, Step] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)


def gather_facts(
    matches: Sequence[Match], leaves: tuple[Sequence[Leaf], Sequence[Leaf]], specs: Mapping[str, TensorSpec],
    slots: Mapping[str, Slot], options: Options, network: str,
) -> Facts:  # fmt: skip
    """Return the facts that single tensors can't show: orientation, prefix tokens, which convolution is the first."""
    tails = {m.target.name: _tail(m.target.name) for m in matches}
    convs = [leaf for leaf in leaves[1] if len(leaf.shape) >= 3 and leaf.role == "weight" and leaf.part is None]
    first = min(convs, key=lambda leaf: leaf.order).keys[0] if convs else ""
    return Facts(
        specs=specs, slots=slots, options=options, layout=read_layout(list(matches), tails),
        sides=(read_side(leaves[0]), read_side(leaves[1])), first_conv=first, network=network, tails=tails,
    )  # fmt: skip


def _tail(name: str) -> str:
    parts = name.split(".")
    numbered = [at for at, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[numbered[-1] + 1 :] if numbered else parts)


def compose(matches: Sequence[Match], facts: Facts) -> Draft:
    """Return the steps that the matches come to."""
    draft = Draft()
    by_slot: dict[str, list[Match]] = {}
    for found in matches:
        by_slot.setdefault(found.target.keys[0], []).append(found)
    for slot, found in by_slot.items():
        if found[0].target.part is not None:
            _join(slot, found, facts, draft)
        else:
            for match in found:
                _single(match, facts, draft)
    return draft


def _single(match: Match, facts: Facts, draft: Draft) -> None:
    shapes = {name: slot.spec.shape for name, slot in facts.slots.items() if name in match.target.keys}
    made = pieces(match.source, match.target, facts.specs, shapes)
    if isinstance(made, str):
        _reject(match, made, facts, draft, doubt=True)
        return
    fit = _fit(match, facts)
    for piece in made:
        if fit.ops is None:
            _reject(match, fit.text, facts, draft, doubt=fit.certainty is Certainty.DOUBT)
        else:
            plain = match.target.form == "plain"
            draft.steps[piece.slot] = _step(match, piece, fit if plain else Fit(()), facts)


def _fit(match: Match, facts: Facts) -> Fit:
    source, target = match.source, match.target
    options, slot = facts.options, target.keys[0]
    for pattern, dims in options.permute.items():
        if fnmatchcase(slot, pattern):
            return Fit((Permute(tuple(dims)),), "permuted as you said")
    by_rows = row_fit(source, target, options)
    if by_rows is not None:
        return by_rows
    fit = exact_fit(source, target, facts.layout, facts.tails.get(target.name, ""))
    if fit is not None and target.form != "plain" and fit.ops:
        return Fit(None, mismatch(source.shape, target.shape))
    if fit is not None:
        return fit
    moved = position_fit(source, target, facts.sides, options.grids)
    if moved is not None:
        return moved
    return resized_fit(source, target, slot == facts.first_conv, options.in_channels)


def _step(match: Match, piece: Piece, fit: Fit, facts: Facts) -> Step:
    cut: tuple[Op, ...] = ()
    part = match.source.part
    if part is not None:
        cut = (SliceDim(part.dim, part.start, part.stop, part.total),)
    feeds = tuple(Feed(key, cut, facts.network) for key in piece.keys)
    ops = (*piece.ops, *(fit.ops or ()))
    if len(feeds) == 1:
        feeds, ops = (Feed(feeds[0].key, (*cut, *ops), facts.network),), ()
    said = "; ".join(t for t in (match.why.text, piece.text, fit.text) if t)
    rule = fit.rule or match.why.rule
    return Step(
        slot=facts.slots[piece.slot], feeds=feeds, ops=ops, rows=fit.rows,
        why=Why(rule, said, match.why.evidence), certainty=_worst(match.certainty, fit.certainty),
        alternatives=match.alternatives,
    )  # fmt: skip


def _worst(*levels: Certainty) -> Certainty:
    return max(levels, key=_ORDER.__getitem__)


def _reject(match: Match, text: str, facts: Facts, draft: Draft, *, doubt: bool) -> None:
    for key in match.source.keys:
        draft.rejected[key] = text
    for slot in match.target.keys:
        certainty = Certainty.DOUBT if doubt else Certainty.CERTAIN
        why = Why("shape", text, match.why.evidence)
        draft.steps[slot] = Step(slot=facts.slots[slot], why=why, certainty=certainty)


def _join(slot: str, found: Sequence[Match], facts: Facts, draft: Draft) -> None:
    """Fill a fused slot from its parts; whole tensors that hold the same parts in the same order are copied."""
    spec = facts.slots[slot].spec
    ordered = sorted(found, key=lambda m: m.target.part.start)  # type: ignore[union-attr]
    if _is_whole(ordered, facts):
        only = ordered[0]
        whole = replace(only.source, shape=facts.specs[only.source.keys[0]].shape, part=None)
        _single(replace(only, source=whole, target=replace(only.target, shape=spec.shape, part=None)), facts, draft)
        return
    feeds: list[Feed] = []
    at, said = 0, []
    certainty = Certainty.CERTAIN
    for match in ordered:
        part = match.target.part
        fit = _fit(match, facts)
        if part is None or fit.ops is None or match.source.form != "plain":
            _reject(match, fit.text or "a part that can't be computed", facts, draft, doubt=True)
            return
        if part.start != at:
            feeds.append(_gap(spec, part.dim, part.start - at))
        cut = match.source.part
        ops = () if cut is None else (SliceDim(cut.dim, cut.start, cut.stop, cut.total),)
        feeds.append(Feed(match.source.keys[0], (*ops, *fit.ops), facts.network))
        at = part.stop
        certainty = _worst(certainty, match.certainty, fit.certainty)
        said.append(part.label)
    _finish_join(slot, ordered, (feeds, at, said, certainty), facts, draft)


def _finish_join(
    slot: str, ordered: Sequence[Match], built: tuple[list[Feed], int, list[str], Certainty], facts: Facts, draft: Draft
) -> None:
    feeds, at, said, certainty = built
    part = ordered[0].target.part
    if part is None:
        return
    spec = facts.slots[slot].spec
    lacking = at != part.total or any(not feed.key for feed in feeds)
    if lacking and not (set(said) == {"q", "v"} and len(spec.shape) == 1):
        text = f"only {', '.join(said)} of the fused tensor are in the file"
        for match in ordered:
            _reject(match, text, facts, draft, doubt=True)
        return
    why = Why("fused", f"{' + '.join(said)} joined in that order" + (", zeros for k" if lacking else ""), ordered[0].why.evidence)
    alternatives = tuple(a for m in ordered for a in m.alternatives)[:3]
    ops = (Concat(part.dim),) if len(feeds) > 1 else ()
    draft.steps[slot] = Step(slot=facts.slots[slot], feeds=tuple(feeds), ops=ops, why=why, certainty=certainty, alternatives=alternatives)


def _gap(spec: TensorSpec, dim: int, count: int) -> Feed:
    shape = (*spec.shape[:dim], count, *spec.shape[dim + 1 :])
    return Feed("", (Constant(shape, spec.dtype.label, 0.0),))


def _is_whole(ordered: Sequence[Match], facts: Facts) -> bool:
    """Whether all parts come, in place, from one source tensor that is cut alike."""
    first = ordered[0].source
    if first.part is None or len({m.source.keys for m in ordered}) != 1:
        return False
    ends = [(m.source.part, m.target.part) for m in ordered]
    same = all(a and b and (a.dim, a.start, a.stop, a.total) == (b.dim, b.start, b.stop, b.total) for a, b in ends)
    turned = all(a and b and (a.start, a.stop, a.total) == (b.start, b.stop, b.total) for a, b in ends)
    return (same or turned) and sum(b.stop - b.start for _, b in ends if b) == ordered[0].target.part.total  # type: ignore[union-attr]


__all__ = ["Draft", "Facts", "compose", "gather_facts", "is_matrix"]
