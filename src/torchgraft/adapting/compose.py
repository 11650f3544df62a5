"""From claims about leaves to one step per slot: parts are joined again, sizes are changed, forms are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torchgraft.adapting.first_layers import first_convolutions
from torchgraft.adapting.fit import UNCHANGED, Fit, exact_fit, mismatch, resized_fit
from torchgraft.adapting.flattened import behind_maps, unflattened
from torchgraft.adapting.forms import Piece, pieces
from torchgraft.adapting.options import Options, said_of
from torchgraft.adapting.orientation import Layout, read_layout
from torchgraft.adapting.positions import Side, position_fit, read_side
from torchgraft.adapting.rotary import other_pairs, pairs_text, with_pairs
from torchgraft.adapting.rows import row_fit
from torchgraft.adapting.stored import as_matched, from_stored, whole
from torchgraft.adapting.torn import TORN, kept_fresh, torn
from torchgraft.adapting.vocabulary import changed_vocabularies, vocabulary_fit
from torchgraft.core.derived import is_derived
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.match import Leaf, Match, Part
from torchgraft.core.plan import Certainty, Feed, Op, Step, Why
from torchgraft.core.specs import Slot, Target, TensorSpec
from torchgraft.core.system.making import maker
from torchgraft.ops import Concat, HeadsToParts, InsertZeros, PartsToHeads, Permute, SliceDim

_make_step, _make_feed = maker(Step), maker(Feed)
GUESSED = "the rows of the fused tensor are as many as those of the parts, but no name tells in which order they stand"
SETTLED_BY = "; qkv_layout= says it, 'flat' or 'per_head' (with num_heads=)"
SCATTERED = "its parts would come from several blocks of the file"
_ORDER = {Certainty.CERTAIN: 0, Certainty.LIKELY: 1, Certainty.DOUBT: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What holds for all tensors of one plan."""

    specs: Mapping[str, TensorSpec]
    slots: Mapping[str, Slot]
    options: Options
    layout: Layout
    sides: tuple[Side, Side]
    first_convs: frozenset[str]
    flattened: Mapping[str, int]
    keyed: frozenset[str]
    network: str
    library: str
    vocabularies: frozenset[tuple[int, int]]
    tails: Mapping[str, str]


@dataclass(slots=True)
class Draft:
    """Steps so far, and why source keys that were claimed stay unused all the same."""

    steps: dict[str, Step] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)


def gather_facts(
    matches: Sequence[Match],
    leaves: tuple[Sequence[Leaf], Sequence[Leaf]],
    specs: Mapping[str, TensorSpec],
    target: Target,
    options: Options,
    network: str,
) -> Facts:
    """Return the facts that single tensors can't show: orientation, prefix tokens, which convolution is the first."""
    tails = {m.target.name: _tail(m.target.name) for m in matches}
    layout = read_layout(matches, tails, specs)
    return Facts(
        specs=specs,
        slots={slot.name: slot for slot in target.slots},
        options=options,
        layout=layout,
        sides=(read_side(leaves[0]), read_side(leaves[1])),
        first_convs=first_convolutions(matches, leaves),
        keyed=frozenset(m.target.keys[0].rpartition(".")[0] for m in matches if _has_keys(m.target)),
        flattened=behind_maps(leaves[1]) if layout.kernel and not layout.plain_kernels else {},
        network=network,
        library=target.library,
        vocabularies=changed_vocabularies(matches),
        tails=tails,
    )


def _has_keys(leaf: Leaf) -> bool:
    """Whether a matrix is that of keys, or is whole."""
    return len(leaf.shape) > 1 and (leaf.part is None or leaf.part.label == "k")


def _tail(name: str) -> str:
    parts = name.split(".")
    for at in range(len(parts) - 1, -1, -1):
        if parts[at].isdecimal():
            return ".".join(parts[at + 1 :])
    return name


def compose(matches: Sequence[Match], facts: Facts) -> Draft:
    """Return the steps that the matches come to."""
    draft = Draft()
    by_slot: dict[str, list[Match]] = {}
    for found in matches:
        by_slot.setdefault(found.target.keys[0], []).append(found)
    for slot, group in by_slot.items():
        if group[0].target.part is not None:
            _join(slot, group, facts, draft)
        else:
            for match in group:
                _single(match, facts, draft)
    for slot, match in torn(matches, draft.steps).items():
        draft.steps[slot] = kept_fresh(draft.steps[slot])
        draft.rejected.update(dict.fromkeys(match.source.keys, TORN))
    return draft


def _single(match: Match, facts: Facts, draft: Draft) -> None:
    if match.source.form == match.target.form == "plain" and match.source.part is None:
        _plain(match, _fit(match, facts), facts, draft)
        return
    shapes = {name: facts.slots[name].spec.shape for name in match.target.keys}
    made = pieces(match.source, match.target, facts.specs, shapes)
    if isinstance(made, str):
        _reject(match, made, facts, draft, doubt=True, rule="quantised" if "quantised" in made else "form")
        return
    fit = Fit(()) if match.source.form == "bnb4" else _fit(match, facts)
    for piece in made:
        if fit.ops is None:
            _reject(match, fit.text, facts, draft, doubt=fit.certainty is Certainty.DOUBT)
        elif match.target.form != "plain" and (fit.ops or fit.rows):
            _reject(match, f"{fit.text}: can't be done to {match.target.form} tensors", facts, draft, doubt=True)
        else:
            draft.steps[piece.slot] = _step(match, piece, fit, facts)


def _plain(match: Match, fit: Fit, facts: Facts, draft: Draft) -> None:
    """Fill a slot that is one tensor from one tensor, whole."""
    slot, key = match.target.keys[0], match.source.keys[0]
    if fit.ops is None:
        _reject(match, fit.text, facts, draft, doubt=fit.certainty is Certainty.DOUBT)
    elif fit is UNCHANGED:
        draft.steps[slot] = _make_step(
            slot=facts.slots[slot],
            feeds=(_make_feed(key, (), facts.network),),
            why=match.why,
            certainty=match.certainty,
            alternatives=match.alternatives,
        )
    else:
        draft.steps[slot] = _step(match, Piece(slot, (key,), ()), fit, facts)


def _fit(match: Match, facts: Facts) -> Fit:
    return from_stored(with_pairs(_shaped(match, facts), match.source, match.target), match.source, facts.specs)


def _said(source: Leaf, target: Leaf, options: Options) -> Fit | None:
    """Return how the caller wants a tensor to fit, None where nothing was said about it."""
    if options.permute:
        dims = said_of({p: dims for p, dims in options.permute.items() if len(dims) == len(target.shape)}, target)
        if dims is not None:
            return _permuted(source, target, tuple(dims))
    return row_fit(source, target, options)


def _permuted(source: Leaf, target: Leaf, dims: tuple[int, ...]) -> Fit:
    """Return the caller's order of dimensions.

    Raises:
        UsageError: it is none, or gives another shape than the model's.
    """
    op = Permute(dims)
    made = tuple(source.shape[d] for d in dims) if len(dims) == len(source.shape) else None
    if made != target.shape:
        raise UsageError(
            f"permute: {printable(target.name)} is {list(source.shape)} in the file, which the order {list(dims)} does not make "
            f"{list(target.shape)}, as it is in the model"
        )
    return Fit((op,), "permuted as you said")


def _shaped(match: Match, facts: Facts) -> Fit:
    source, target = match.source, match.target
    options, slot = facts.options, target.keys[0]
    grids = said_of(options.grids, target)
    said = _said(source, target, options)
    if said is not None:
        return said
    changed = vocabulary_fit(source, target, facts.vocabularies)
    if changed is not None:
        return changed
    if grids is not None and grids[0] != grids[1]:  # tables of as many rows may be of other grids: 2x3 and 3x2
        regridded = position_fit(source, target, facts.sides, facts.library, grids)
        if regridded is not None:
            return regridded
    is_stem = slot in facts.first_convs or source.keys[0] in facts.first_convs
    fit = exact_fit(source, target, facts.layout, facts.tails.get(target.name, ""), is_stem=is_stem)
    if fit is not None and slot in facts.flattened and len(source.shape) == len(target.shape):
        return unflattened(fit, target, facts.flattened[slot])
    if fit is not None and target.form != "plain" and fit.ops:
        return Fit(None, mismatch(source.shape, target.shape))
    if fit is not None:
        return fit
    moved = position_fit(source, target, facts.sides, facts.library, grids)
    if moved is not None:
        return moved
    channels, kernel = said_of(options.in_channels, target), said_of(options.kernels, target)
    return resized_fit(source, target, first_conv=is_stem, channels=channels, kernel=kernel)


def _step(match: Match, piece: Piece, fit: Fit, facts: Facts) -> Step:
    cut = _cut(match.source, facts)
    feeds = tuple(Feed(key, cut, facts.network) for key in piece.keys)
    ops = (*piece.ops, *(fit.ops or ()))
    if len(feeds) == 1:
        feeds, ops = (Feed(feeds[0].key, (*cut, *ops), facts.network),), ()
    said = "; ".join(
        t for t in (match.why.text, piece.text, fit.text, *(f"order of parts {c}" for c in _conventions([match]))) if t
    )
    return Step(
        slot=facts.slots[piece.slot],
        feeds=feeds,
        ops=ops,
        rows=fit.rows,
        made=fit.made,
        why=replace(match.why, rule=fit.rule or match.why.rule, text=said, doubt=_lacks(match)),
        certainty=_worst(match.certainty, fit.certainty, _order_of(match)),
        alternatives=match.alternatives,
    )


def _order_of(match: Match) -> Certainty:
    """Return how sure the order of parts is in the fused tensors of a match."""
    parts = (match.source.part, match.target.part)
    if any(part and part.guessed for part in parts):
        return Certainty.DOUBT
    return Certainty.LIKELY if any(part and part.contested for part in parts) else Certainty.CERTAIN


def _lacks(match: Match) -> str:
    """Return what is missing where a match is in doubt, "" where it isn't."""
    if match.why.doubt or _order_of(match) is not Certainty.DOUBT:
        return match.why.doubt
    labels = {part.label for part in (match.source.part, match.target.part) if part}
    return GUESSED + SETTLED_BY if labels <= {"q", "k", "v"} else GUESSED


def _worst(*levels: Certainty) -> Certainty:
    return max(levels, key=_ORDER.__getitem__)


def _reject(match: Match, text: str, facts: Facts, draft: Draft, *, doubt: bool, rule: str = "shape") -> None:
    for key in match.source.keys:
        draft.rejected[key] = text
    for slot in match.target.keys:
        certainty = Certainty.DOUBT if doubt else Certainty.CERTAIN
        why = Why(rule, text, match.why.evidence)
        quiet = not doubt and is_derived(facts.slots[slot].spec)
        draft.steps[slot] = Step(slot=facts.slots[slot], why=why, certainty=certainty, quiet=quiet)


def _join(slot: str, found: Sequence[Match], facts: Facts, draft: Draft) -> None:
    """Fill a fused slot from its parts; whole tensors that hold the same parts in the same order are copied."""
    ordered = sorted(found, key=lambda m: m.target.part.start)  # type: ignore[union-attr]
    if _is_whole(ordered):
        only, shape = ordered[0], facts.slots[slot].spec.shape
        fused = replace(only.source, shape=whole(only.source), part=None)
        _single(replace(only, source=fused, target=replace(only.target, shape=shape, part=None)), facts, draft)
        return
    fits = [_fit(match, facts) for match in ordered]
    lacking = _lacking(ordered, facts.slots[slot].spec, keyed=slot.rpartition(".")[0] in facts.keyed)
    odd = next((fit for fit in fits if fit.ops is None), None)
    formed = any(m.source.form != "plain" for m in ordered)
    if lacking is None or odd or formed:
        had = " and ".join(m.target.part.label for m in ordered if m.target.part)
        text = (
            odd.text
            if odd
            else f"only {had} of the fused tensor can be had from the file; it is filled whole or not at all"
        )
        doubt = formed or bool(odd and odd.certainty is Certainty.DOUBT)
        for match in ordered:
            _reject(match, text, facts, draft, doubt=doubt, rule="shape" if odd else "fused")
        return
    draft.steps[slot] = _joined(slot, ordered, fits, lacking, facts)


def _cut(source: Leaf, facts: Facts) -> tuple[Op, ...]:
    """Return the ops that cut a part out of its fused tensor."""
    part = source.part
    if part is None:
        return ()
    apart = () if part.groups == 1 else (HeadsToParts(groups=part.groups, parts=part.sizes, dim=part.dim),)
    return (*as_matched(source, facts.specs), *apart, SliceDim(part.dim, part.start, part.stop, part.total))


def _packed(part: Part) -> tuple[Op, ...]:
    """Return the op that puts joined parts in the order of rows that the fused tensor has."""
    return () if part.groups == 1 else (PartsToHeads(groups=part.groups, parts=part.sizes, dim=part.dim),)


def _conventions(found: Sequence[Match]) -> list[str]:
    """Return where the orders of parts can be read that the matches rest on."""
    parts = (part for m in found for part in (m.source.part, m.target.part) if part)
    return list(dict.fromkeys(part.convention for part in parts if part.convention))


def _lacking(ordered: Sequence[Match], spec: TensorSpec, *, keyed: bool) -> tuple[Op, ...] | None:
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


def _joined(slot: str, ordered: Sequence[Match], fits: Sequence[Fit], zeros: tuple[Op, ...], facts: Facts) -> Step:
    feeds = []
    for match, fit in zip(ordered, fits, strict=True):
        feeds.append(Feed(match.source.keys[0], (*_cut(match.source, facts), *(fit.ops or ())), facts.network))
    parts = [m.target.part for m in ordered if m.target.part]
    dim, conventions = parts[0].dim, _conventions(ordered)
    text = f"{' + '.join(part.label for part in parts)} joined in that order" + (", zeros for k" if zeros else "")
    text += f" ({'; '.join(conventions)})" if conventions else ""
    text += "".join(f"; {said}" for said in dict.fromkeys(pairs_text(m.source, m.target) for m in ordered) if said)
    sure = _worst(*(m.certainty for m in ordered), *(f.certainty for f in fits), *map(_order_of, ordered))
    scattered = len({_numbers(m.source) for m in ordered}) > 1
    return Step(
        slot=facts.slots[slot],
        feeds=tuple(feeds),
        ops=((Concat(dim),) if len(feeds) > 1 else ()) + zeros + _packed(parts[0]),
        why=replace(
            _least_sure(ordered).why,
            rule="fused",
            text=text,
            doubt=SCATTERED if scattered else _lacks(_least_sure(ordered)),
        ),
        certainty=Certainty.DOUBT if scattered else sure,
        alternatives=tuple(a for m in ordered for a in m.alternatives)[:3],
    )


def _numbers(leaf: Leaf) -> tuple[str, ...]:
    """Return the numbers in the path of the layer around a part, which say in which block it is."""
    return tuple(word for word in leaf.owner.split(".")[:-1] if word.isdecimal())


def _least_sure(found: Sequence[Match]) -> Match:
    return max(found, key=lambda match: _ORDER[match.certainty])


def _is_whole(ordered: Sequence[Match]) -> bool:
    """Whether all parts come, in place, from one source tensor that is cut alike."""
    first = ordered[0].source
    if first.part is None or len({m.source.keys for m in ordered}) != 1:
        return False
    ends = [(m.source.part, m.target.part) for m in ordered]
    if any(other_pairs(m.source, m.target) for m in ordered):
        return False
    alike = all(a and b and a.packing == b.packing for a, b in ends)
    alike &= all(a and b and (a.start, a.stop, a.total) == (b.start, b.stop, b.total) for a, b in ends)
    return alike and sum(b.stop - b.start for _, b in ends if b) == ordered[0].target.part.total  # type: ignore[union-attr]
