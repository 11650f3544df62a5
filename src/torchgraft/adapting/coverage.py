"""How much of both sides finds a place, and whether the file was made for another variant of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator

from torchgraft.adapting.adapter_names import OTHER_ADAPTERS, are_mergeable, is_adapter
from torchgraft.adapting.fit import mismatch, reordered
from torchgraft.core.errors import printable
from torchgraft.core.formatting import grouped, percent, tensors
from torchgraft.core.grounds import Ground
from torchgraft.core.names import ends
from torchgraft.core.objections import Objection
from torchgraft.core.plan import Action, Certainty, Plan, Step
from torchgraft.core.specs import Shape

LOW = 0.5
# The file is said to be of another variant from so many tensors on, and this share of those with equal names, that differ in
# more than their rows: heads of other classes differ in rows, a stem or a position table is one or two tensors.
FEW, SHARE = 3, 0.1
ANOTHER_FILE = "build the model with the sizes of the file, or take the file of this variant"


def coverage_objections(plan: Plan) -> Iterator[Objection]:
    """Yield that next to nothing, or less than half, finds a place; and that the file is of another variant.

    What the caller keeps fresh is not asked of the file.
    """
    kept = sum([step.slot.spec.numel for step in plan.steps if _is_kept(step)])
    cover = plan.coverage
    wanted = cover.target_elements - kept
    share = cover.target_filled / wanted if wanted else 0.0
    best = max(share, cover.source if cover.source_elements else 0.0)
    placed = len([step for step in plan.steps if step.feeds or step.ops])
    variant = other_variant(plan)
    if not plan.steps:
        fact = "no match: the model has no parameters and no buffers"
        yield Objection("coverage", fact, remedy="if its layers are quantised, load before they are")
    elif placed == 0 or best < plan.policy.min_coverage:
        sizes = _sizes(plan, variant)
        fact = f"no match: {_placed(plan, share, kept, placed)}{sizes}"
        yield Objection(
            "coverage", fact, remedy=_remedy(plan, variant, sizes, ", or lower min_coverage=" if placed else "")
        )
    elif best < LOW and not any(step.base for step in plan.steps):  # adapters are for a few layers
        sizes = _sizes(plan, variant)
        sized = "build the model with the sizes of the file, or " if sizes else ""
        more = ANOTHER_FILE if variant else f"if more should, {sized}say which names correspond (rename=)"
        fact = f"{_placed(plan, share, kept, placed)}{sizes}"
        yield Objection("low_coverage", fact, remedy=more)
    elif variant:
        yield Objection("low_coverage", variant, remedy=ANOTHER_FILE)


def _remedy(plan: Plan, variant: str, sizes: str, lower: str) -> str:
    """Return what to do where next to nothing finds a place; `lower` says how to take it as it is."""
    if any(is_adapter(key) for key in plan.source_specs):
        if not are_mergeable(plan.source_specs):
            return f"it holds adapters, {OTHER_ADAPTERS}"
        return "it holds low-rank adapters: fill the model first, then merge them into it with merge_lora=True"
    if variant:
        return f"{ANOTHER_FILE}{lower}"
    right = "is it the right file, and the model of its sizes?" if sizes else "is it the right file?"
    return f"{_numbered(plan)}{right} Otherwise say which names correspond (rename=){lower}"


def _numbered(plan: Plan) -> str:
    """Return that the file has numbers where others name weights and biases, "" where it names most of its tensors."""
    numbered = [key for key in plan.source_specs if key.rpartition(".")[2].isdecimal()]
    if 2 * len(numbered) <= len(plan.source_specs):
        return ""
    return f"the file numbers what its layers hold ({printable(numbered[0])}) and doesn't say what that is: write it by name; "


def _placed(plan: Plan, share: float, kept: int, placed: int) -> str:
    """Return in words how much of both sides finds a place; elements that the caller keeps fresh are left out of the share."""
    if placed == 0:
        return f"nothing of the checkpoint finds a place in the model (0 of {tensors(len(plan.steps))})"
    asked = " that aren't kept fresh" if kept else ""
    return (
        f"only {percent(share)} of the model's elements{asked} and {percent(plan.coverage.source)} of the checkpoint's find a "
        f"place ({grouped(placed)} of {tensors(len(plan.steps))})"
    )


def _is_kept(step: Step) -> bool:
    """Whether the caller keeps the slot fresh."""
    return step.why.rule == Ground.USER_RULE and step.action is Action.FRESH and not step.quiet


def other_variant(plan: Plan) -> str:
    """Return in words that many tensors of equal names differ in more than rows, "" where few do."""
    if not any(map(_is_open, plan.steps)):
        return ""
    shared = _namesakes(plan)
    differ = [(step, shape) for step, shape in shared if _is_open(step) and _differs(shape, step.slot.spec.shape)]
    if len(differ) < max(FEW, SHARE * len(shared)):
        return ""
    step, shape = differ[0]
    text = (
        f"the file looks like one of another variant of the model: {len(differ)} of the {len(shared)} weights that both call "
        f"the same differ in shape, e.g. {printable(step.slot.name)}: {mismatch(shape, step.slot.spec.shape)}"
    )
    pairs = Counter(pair for step, shape in differ for pair in _sizes_apart(shape, step.slot.spec.shape))
    (old, new), count = max(pairs.items(), key=lambda pair: (pair[1], -pair[0][0]), default=((0, 0), 0))
    if count and 2 * count >= len(differ):  # of two that say it, the width comes before its multiples
        text += f"; {'all' if count == len(differ) else count} of them have {old} where the model has {new}"
    return text


def _namesakes(plan: Plan) -> list[tuple[Step, Shape]]:
    """Return the steps of weights that the file has by the same name, with its shape there.

    Where it has none of them, names count as the same behind the prefix that most of them have more on one side. Indices and
    masks, which the model makes itself, are no weights.
    """
    specs = plan.source_specs
    weights = {step.slot.name: step for step in plan.steps if len(step.slot.spec.shape) > 1 and not step.quiet}
    if weights.keys().isdisjoint(specs):
        ours, theirs = _most_common_prefix(specs, weights), _most_common_prefix(weights, specs)
        named = {name: ours + name if ours else name.removeprefix(theirs) for name in weights}
    else:
        named = {name: name for name in weights}
    return [(step, specs[named[name]].shape) for name, step in weights.items() if named[name] in specs]


def _most_common_prefix(names: Iterable[str], others: Container[str]) -> str:
    """Return what stands before most of those names that end as one of the others, "" where none does."""
    found = Counter(name.removesuffix(end) for name in names for end in ends(name) if end in others and end != name)
    return found.most_common(1)[0][0] if found else ""


def _is_open(step: Step) -> bool:
    return (not step.feeds and not step.ops and step.why.rule != Ground.USER_RULE) or step.certainty is Certainty.DOUBT


def _differs(a: Shape, b: Shape) -> bool:
    """Whether two shapes differ in more than the number of rows, axes of size one and the order of axes."""
    return not reordered(a, b) and [d for d in a[1:] if d != 1] != [d for d in b[1:] if d != 1]


def _sizes_apart(a: Shape, b: Shape) -> set[tuple[int, int]]:
    return {(m, n) for m, n in zip(a, b, strict=True) if m != n} if len(a) == len(b) else set()


def _with_ends(name: str) -> list[str]:
    return [end for end in ends(name) if "." in end or end == name]


def _sizes(plan: Plan, variant: str) -> str:
    """Return in words that the file is of another `variant`, or how many tensors of like names differ in shape."""
    if variant:
        return f"; {variant}"
    known = {end for key in plan.source_specs for end in _with_ends(key)}
    differ = [
        s for s in plan.steps if s.why.rule == Ground.SHAPE and any(name in known for name in _with_ends(s.slot.name))
    ]
    if not differ:
        return ""
    first = differ[0]
    sizes = first.why.text.partition("; ")[0]  # without what could fill a part of it
    agree = "agrees by name and differs" if len(differ) == 1 else "agree by name and differ"
    return f"; {tensors(len(differ))} {agree} in shape, e.g. {printable(first.slot.name)}: {sizes}"
