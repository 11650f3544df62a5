"""The sections of plans and reports: every slot and every source tensor is counted in exactly one of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import printable
from torchgraft.core.formatting import runs_words, tensors
from torchgraft.core.grounds import Ground
from torchgraft.core.names import without_common_end
from torchgraft.core.objections import Objection
from torchgraft.core.plan import (
    Action,
    Certainty,
    Plan,
    Step,
    Unused,
)
from torchgraft.reporting.folding import Fold, factor_names, fold
from torchgraft.reporting.formatting import figures, shape_words, shapes_words
from torchgraft.reporting.plan_rows import FEW_LINES, Facts, fold_modules, fold_sizes, row, source_shape, unused_row
from torchgraft.reporting.view import Group, Line, Section

FATES = ("copied", "renamed", "adapted", "doubtful", "fresh", "quiet")
# Rules under which a name says everything by itself: the prefix that was set aside.
NAME_ONLY_RULES = frozenset({Ground.SAME_NAME, Ground.NAME, Ground.PREFIX})
LIKELY_SAME = "same name, likely the same"
# The number of a layer: a whole segment of a name.
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def fate(step: Step) -> str:
    """Return the one section of a report in which the slot is listed."""
    action = step.action
    if action is Action.FRESH:
        return "quiet" if step.quiet else "fresh"
    if step.certainty is Certainty.DOUBT:
        return "doubtful"
    if action is Action.ADAPT:
        return "adapted"
    return "renamed" if step.renamed else "copied"


def by_fate(plan: Plan) -> dict[str, list[Step]]:
    """Return the steps of a plan by their fate."""
    found: dict[str, list[Step]] = {name: [] for name in FATES}
    for step in plan.steps:
        found[fate(step)].append(step)
    return found


def fresh_section(steps: Sequence[Step], plan: Plan, common_dtype: DType | None, initialised: int = 0) -> Section:
    """Return what keeps its initial values, by cause."""
    amount = figures(len(steps), sum(step.slot.spec.numel for step in steps))
    adds = any(step.base for step in plan.steps)
    kept = sum(adds and step.why.rule == Ground.NO_COUNTERPART for step in steps)
    heads = (Group(cause="what the model holds stays; the file has nothing to add to it", count=kept),) if kept else ()
    listed = [step for step in steps if not adds or step.why.rule != Ground.NO_COUNTERPART]
    rows = [row(step, common_dtype, shaped=True, others=True) for step in listed]
    if initialised:
        amount += f"; {initialised} initialised by the model's own code"
    names = [printable(step.slot.name) for step in plan.steps if fate(step) != "quiet"] if steps else []
    groups = (*heads, *_groups(fold_modules(rows, names)))
    return Section(title="fresh", tone="care", figures=amount, groups=groups, count=len(steps))


def unused_section(unused: Sequence[Unused], plan: Plan, common_dtype: DType | None) -> Section:
    """Return what the checkpoint holds and the model has no place for, by cause."""
    quiet = {one.spec.name for one in plan.unused if one.quiet}
    names = [printable(name) for name in plan.source_specs if name not in quiet] if unused else []
    rows = [unused_row(one, common_dtype) for one in unused]
    amount = figures(len(unused), sum(one.spec.numel for one in unused))
    groups = _groups(fold_modules(rows, names), other="similar: ")
    return Section(title="unused", tone="care", figures=amount, groups=groups, count=len(unused))


def adapted_section(steps: Sequence[Step], plan: Plan, common_dtype: DType | None) -> Section:
    """Return what goes through ops or fills a slot in part, by cause."""
    rows = [row(step, common_dtype, shaped=True, source=source_shape(step, plan)) for step in steps]
    amount = figures(len(steps), sum(step.filled for step in steps)) + _likely_words(steps)
    return Section(title="adapted", tone="good", figures=amount, groups=_groups(fold_sizes(rows)), count=len(steps))


def likely_section(steps: Sequence[Step]) -> Section:
    """Return what keeps its name although the number in it may mean another layer: likely the same, not certain."""
    likely = [step for step in steps if step.certainty is Certainty.LIKELY]
    rows = (row(step, None, shaped=False)._replace(related=((),)) for step in likely)
    return Section(
        title=LIKELY_SAME, tone="good", figures=tensors(len(likely)), groups=_groups(fold(rows)), count=len(likely)
    )


def doubtful_section(steps: Sequence[Step], plan: Plan, common_dtype: DType | None) -> Section:
    """Return what has more than one reading, with the other readings."""
    rows = [row(step, common_dtype, shaped=True, source=source_shape(step, plan), others=True) for step in steps]
    amount = figures(len(steps), sum(step.filled for step in steps))
    return Section(title="doubtful", tone="bad", figures=amount, groups=_groups(fold_sizes(rows)), count=len(steps))


def renamed_section(steps: Sequence[Step]) -> Section:
    """Return the rules under which names differ; where only a prefix differs, its rule alone."""
    swapped = Counter(_swapped(step) for step in steps if step.why.rule in NAME_ONLY_RULES)
    often = {pair for pair, count in swapped.items() if count > FEW_LINES}
    words = [_prefix_words(step, often) for step in steps]
    plain = _merge_numbered(Counter(words))
    rows = (row(step, None, shaped=False) for step, text in zip(steps, words, strict=True) if not text)
    heads = tuple(Group(cause=text, count=count) for text, count in plain.items() if text)
    groups = (*heads, *_groups(fold(rows)))
    amount = tensors(len(steps)) + _likely_words(steps)
    return Section(title="renamed", tone="good", figures=amount, groups=groups, count=len(steps))


def _merge_numbered(rules: Mapping[str, int]) -> dict[str, int]:
    """Return prefix rules with their counts; those that differ in one and the same number are joined."""
    alike: dict[tuple[str, ...], list[tuple[str, int]]] = {}
    for text, count in rules.items():
        alike.setdefault(tuple(_NUMBER.split(text)), []).append((text, count))
    out: dict[str, int] = {}
    for parts, found in alike.items():
        numbers = [{int(n) for n in _NUMBER.findall(text)} for text, _ in found]
        if len(found) > 1 and all(len(one) == 1 for one in numbers):
            out[f"{{{runs_words(sorted(set.union(*numbers)))}}}".join(parts)] = sum(count for _, count in found)
        else:
            out.update(found)
    return out


def _likely_words(steps: Sequence[Step]) -> str:
    likely = sum(step.certainty is Certainty.LIKELY for step in steps)
    if not likely:
        return ""
    return "; likely, not certain" if likely == len(steps) else f"; {likely} of them likely, not certain"


def _swapped(step: Step) -> tuple[str, str]:
    """Return what both names begin with before their common end, the file's first; nothing where it has numbers."""
    theirs, ours = without_common_end(step.feeds[0].key, step.slot.name)
    pair = f"{theirs}.", f"{ours}."
    plain = step.certainty is Certainty.CERTAIN and theirs and ours and not any(map(str.isdecimal, theirs + ours))
    return pair if plain else ("", "")


def _prefix_words(step: Step, swaps: Container[tuple[str, str]]) -> str:
    """Return in words how a match by names alone changes their prefix: less, more, or one of `swaps` for another; else ""."""
    if step.why.rule not in NAME_ONLY_RULES:
        return ""
    key = step.feeds[0].key
    for name in step.slot.names:
        if key.endswith("." + name):
            return f"same names without '{printable(key.removesuffix(name))}'"
        if name.endswith("." + key):
            return f"same names under '{printable(name.removesuffix(key))}'"
    if (pair := _swapped(step)) in swaps and all(pair):
        return f"same names with '{printable(pair[1])}' in place of '{printable(pair[0])}'"
    return printable(step.why.text) if step.why.rule == Ground.PREFIX else ""


def cast_section(plan: Plan) -> Section:
    """Return which element types change on the way."""
    pairs: Counter[str] = Counter()
    for step in plan.steps:
        if len(step.feeds) == 1 and _keeps_dtype(step, plan):
            continue
        specs = [plan.source_specs[feed.key] for feed in step.feeds if feed.key in plan.source_specs]
        kinds = {str(spec.dtype) for spec in specs} - {str(step.slot.spec.dtype)}
        if kinds:
            pairs[f"{' and '.join(sorted(kinds))} -> {step.slot.spec.dtype}"] += 1
    groups = tuple(Group(cause=text, count=count) for text, count in pairs.items())
    return Section(title="cast", figures=tensors(sum(pairs.values())), groups=groups)


def _keeps_dtype(step: Step, plan: Plan) -> bool:
    spec = plan.source_specs.get(step.feeds[0].key)
    return spec is not None and spec.dtype is step.slot.spec.dtype


def objection_section(title: str, tone: str, objections: Sequence[Objection]) -> Section:
    """Return objections, each with its fact and remedy."""
    groups = tuple(Group(cause=printable(o.fact, 2000), remedy=printable(o.remedy, 2000)) for o in objections)
    return Section(title=title, tone=tone, groups=groups)


def most_common_dtype(plan: Plan) -> DType | None:
    """Return the element type that most slots have; the others are named where they appear."""
    counted = Counter(step.slot.spec.dtype for step in plan.steps)
    return counted.most_common(1)[0][0] if counted else None


# What stands before another reading.
ALTERNATIVE = "or else from "


def _groups(folds: Sequence[Fold], other: str = ALTERNATIVE) -> tuple[Group, ...]:
    grouped: dict[str, list[Fold]] = {}
    for one in folds:
        grouped.setdefault(one.sentences[0], []).append(one)
    return tuple(
        Group(cause=cause, lines=tuple(_line(one, other) for one in members), count=sum(one.count for one in members))
        for cause, members in grouped.items()
    )


def _line(one: Fold, other: str) -> Line:
    facts = one.facts if isinstance(one.facts, Facts) else Facts()
    parts = [text for text in (one.pattern, shapes_words(one.shapes), facts.dtype) if text]
    feeds = one.related(0)
    shown = shape_words(facts.source_shape)
    source = " ".join(text for text in (factor_names(feeds), shown) if text) if feeds else ""
    others = tuple(
        _alternative_words(one, at + 1, other, text) if one.groups[at + 1] else text
        for at, text in enumerate(one.sentences[1:])
    )
    return Line(
        text=" ".join(parts),
        source=source,
        detail=tensors(one.count) if facts.whole else _detail(facts),
        others=others,
        count=one.count,
    )


def _alternative_words(one: Fold, group: int, other: str, text: str) -> str:
    """Return another reading in words; where its numbers don't follow those of the names, only what it is one of."""
    if one.follows_pattern(group):
        return f"{other}{factor_names(one.related(group))}{': ' + text if text else ''}"
    return f"{other}{'another of ' if other == ALTERNATIVE else ''}{factor_names(one.distinct(group))}"


def _detail(facts: Facts) -> str:
    likely = "likely" if facts.certainty is Certainty.LIKELY else ""
    return "; ".join(text for text in (facts.words, likely) if text)
