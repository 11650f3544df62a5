"""From claims about leaves to one step per slot: parts are joined again, sizes are changed, forms are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torchgraft.adapting.facts import Facts, unflattened
from torchgraft.adapting.fit import UNCHANGED, Fit, exact_fit, mismatch
from torchgraft.adapting.forms import Obstacle, Piece, from_stored_shape, pieces, whole
from torchgraft.adapting.fused import (
    conventions,
    cut_ops,
    fill_for_missing,
    is_whole,
    joined_step,
    order_certainty,
    torn_parts,
    what_lacks,
)
from torchgraft.adapting.options import Options, option_for
from torchgraft.adapting.positions import position_fit, stated_grids
from torchgraft.adapting.recurrent import torn_cells, unordered_gates
from torchgraft.adapting.resized import gains_depth, resized_fit
from torchgraft.adapting.rotary import with_pairs
from torchgraft.adapting.rows import row_fit, vocabulary_fit, with_note_on_shrinking
from torchgraft.adapting.written import as_run
from torchgraft.core.errors import UsageError, printable
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf, Match
from torchgraft.core.names import is_derived
from torchgraft.core.plan import Certainty, Doubt, Feed, Step, Why, least_certain
from torchgraft.core.specs import TensorSpec
from torchgraft.core.system.fast_objects import maker
from torchgraft.ops import Permute

_make_step, _make_feed = maker(Step), maker(Feed)


@dataclass(slots=True)
class Draft:
    """Steps so far, and why source keys that were claimed stay unused all the same."""

    steps: dict[str, Step] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)


def compose(matches: Sequence[Match], facts: Facts) -> Draft:
    """Return the steps that the matches come to."""
    draft = Draft()
    fused: dict[str, list[Match]] = {}
    for found in matches:
        if found.target.part is None:
            _single(found, facts, draft)
        else:
            fused.setdefault(found.target.keys[0], []).append(found)
    for slot, parts in fused.items():
        _join(slot, parts, facts, draft)
    for slot, match in orphaned_biases(matches, draft.steps).items():
        draft.steps[slot] = kept_fresh(draft.steps[slot])
        draft.rejected.update(dict.fromkeys(match.source.keys, ORPHANED))
    draft.steps.update(torn_parts(matches, draft.steps))
    draft.steps.update(torn_cells(draft.steps))
    draft.steps.update(unordered_gates(draft.steps))
    draft.steps.update(without_biases(matches, draft.steps))
    return draft


def _single(match: Match, facts: Facts, draft: Draft) -> None:
    if match.source.form == match.target.form == "plain" and match.source.part is None:
        _plain(match, _fit(match, facts), facts, draft)
        return
    shapes = {name: facts.slots[name].spec.shape for name in match.target.keys}
    made = pieces(match.source, match.target, facts.specs, shapes)
    if isinstance(made, Obstacle):
        _reject(match, made.text, facts, draft, doubt=True, rule=made.ground)
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
    source, target = match.source, match.target
    fit = as_run(with_pairs(_shaped(match, facts), source, target), source, target, facts.architecture)
    return from_stored_shape(_possible(fit, source), source, facts.specs)


def _possible(fit: Fit, source: Leaf) -> Fit:
    """Return the fit, or why its ops can't be done: a rule of the caller may not lead to the model's sizes."""
    if not fit.ops:
        return fit
    spec = TensorSpec(source.name, source.shape, source.dtype)
    try:
        for op in fit.ops:
            spec = op.out_spec([spec])
    except UsageError as error:
        return Fit(None, str(error), certainty=Certainty.DOUBT)
    return fit


def _requested_fit(source: Leaf, target: Leaf, options: Options) -> Fit | None:
    """Return how the caller wants a tensor to fit, None where nothing was said about it."""
    if options.permute:
        dims = option_for({p: dims for p, dims in options.permute.items() if len(dims) == len(target.shape)}, target)
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
            f"permute: {printable(target.name)} is {list(source.shape)} in the file, which the order {list(dims)} does not "
            f"make {list(target.shape)}, as it is in the model"
        )
    return Fit((op,), "permuted as you said")


def _shaped(match: Match, facts: Facts) -> Fit:
    source, target = match.source, match.target
    options, slot = facts.options, target.keys[0]
    grids = option_for(options.grids, target) or stated_grids(source, target, facts.sides)
    said = _requested_fit(source, target, options)
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
    channels, kernel = option_for(options.in_channels, target), option_for(options.kernels, target)
    if channels and gains_depth(source.shape, target.shape):
        return resized_fit(source, target, first_conv=is_stem, channels=channels, kernel=kernel)
    fit = exact_fit(source, target, facts.layout, is_stem=is_stem)
    if fit is not None and fit.ops is not None and slot in facts.flattened and len(source.shape) == len(target.shape):
        return unflattened(fit, target, facts.flattened[slot])
    if fit is not None and target.form != "plain" and fit.ops:
        return Fit(None, mismatch(source.shape, target.shape))
    if fit is not None:
        return fit
    moved = position_fit(source, target, facts.sides, facts.library, grids)
    if moved is not None:
        return moved
    groups = facts.slots[slot].groups
    resized = resized_fit(source, target, first_conv=is_stem, channels=channels, kernel=kernel, groups=groups)
    return with_note_on_shrinking(resized, source, target, options)


def _step(match: Match, piece: Piece, fit: Fit, facts: Facts) -> Step:
    cut = cut_ops(match.source, facts)
    feeds = tuple(Feed(key, cut, facts.network) for key in piece.keys)
    ops = (*piece.ops, *(fit.ops or ()))
    if len(feeds) == 1:
        feeds, ops = (Feed(feeds[0].key, (*cut, *ops), facts.network),), ()
    said = "; ".join(
        t for t in (match.why.text, piece.text, fit.text, *(f"order of parts {c}" for c in conventions([match]))) if t
    )
    return Step(
        slot=facts.slots[piece.slot],
        feeds=feeds,
        ops=ops,
        rows=fit.rows,
        made=fit.made,
        why=replace(match.why, rule=fit.rule or match.why.rule, text=said).in_doubt(what_lacks(match)),
        certainty=least_certain([match.certainty, fit.certainty, order_certainty(match)]),
        alternatives=match.alternatives,
    )


def _reject(match: Match, text: str, facts: Facts, draft: Draft, *, doubt: bool, rule: str = Ground.SHAPE) -> None:
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
    if is_whole(ordered):
        only, shape = ordered[0], facts.slots[slot].spec.shape
        fused = replace(only.source, shape=whole(only.source), part=None)
        _single(replace(only, source=fused, target=replace(only.target, shape=shape, part=None)), facts, draft)
        return
    fits = [_fit(match, facts) for match in ordered]
    lacking = fill_for_missing(ordered, facts.slots[slot].spec, keyed=slot.rpartition(".")[0] in facts.keyed)
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
            _reject(match, text, facts, draft, doubt=doubt, rule=Ground.SHAPE if odd else Ground.FUSED)
        return
    draft.steps[slot] = joined_step(slot, ordered, fits, lacking, facts)


ORPHANED = "the weight of the layer that it belongs to does not fit, so it may be another layer's"


def orphaned_biases(matches: Sequence[Match], steps: Mapping[str, Step]) -> dict[str, Match]:
    """Return slot -> match of biases whose weight fits nowhere, unless names say that the layer is the same one.

    A layer of another size that took its place is another layer; its bias means nothing without its weight. Nor is it
    the same, whatever it is called, where one weighs single channels, as norms do, and the other mixes them.
    """
    empty = {name for name, step in steps.items() if not step.feeds}
    if not empty:
        return {}
    whole = [m for m in matches if m.source.part is None and m.target.part is None]
    weights = [m for m in whole if m.target.role == "weight"]
    lost = {m.source.owner for m in weights if m.target.keys[0] in empty}
    lost.difference_update(m.source.owner for m in weights if m.target.keys[0] not in empty)
    others = {m.source.owner for m in weights if _mixes(m.source) != _mixes(m.target)}
    return {
        m.target.keys[0]: m for m in whole
        if m.source.owner in lost and m.target.role == "bias" and m.target.keys[0] not in empty
        if m.source.owner in others or _layer_words(m.source) != _layer_words(m.target)
    }  # fmt: skip


TURNED = "its bias does not fit, so it may be a layer of another kind, or one that is stored the other way round"


def without_biases(matches: Sequence[Match], steps: Mapping[str, Step]) -> dict[str, Step]:
    """Return the steps, in doubt, of matrices and kernels that fit while the bias of their layer doesn't.

    A transposed convolution has a kernel of the sizes of a convolution with its inputs and outputs exchanged.
    """
    torn = {
        (m.source.owner, m.target.owner)
        for m in matches
        if m.target.role == "bias" and not steps[m.target.keys[0]].feeds and m.source.numel != m.target.numel
    }
    found = [
        steps[m.target.keys[0]]
        for m in matches if m.target.role == "weight" and (m.source.owner, m.target.owner) in torn and _mixes(m.target)
    ] if torn else []  # fmt: skip
    return {
        step.slot.name: replace(step, certainty=Certainty.DOUBT, why=step.why.in_doubt(Doubt("without_biases", TURNED)))
        for step in found
        if step.feeds and step.rows is None and step.made is None
    }


def kept_fresh(step: Step) -> Step:
    """Return the step of a slot that stays fresh as an orphaned bias."""
    return Step(slot=step.slot, why=Why(Ground.SHAPE, ORPHANED, step.why.evidence))


def _mixes(weight: Leaf) -> bool:
    return len(weight.shape) > 1


def _layer_words(leaf: Leaf) -> list[str]:
    """Return what a layer is called by itself: its last word, and the numbers behind it, which say nothing without it."""
    parts = leaf.owner.split(".")
    words = [at for at, part in enumerate(parts) if not part.isdecimal()]
    return parts[words[-1] :] if words else parts
