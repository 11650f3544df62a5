"""The rows of a plan's sections, and how they fold where a list would get long."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from typing import NamedTuple

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import printable
from torchgraft.core.plan import Alternative, Certainty, Plan, Step, Unused
from torchgraft.core.specs import Shape
from torchgraft.reporting.folding import Fold, Row, Sizes, fold
from torchgraft.reporting.formatting import part_words, shape_words

MOST_NAMES = 6
# Lists of up to so many lines are shown as they are.
FEW_LINES = 8
MAX_DEPTH = 32


class Facts(NamedTuple):
    """What a line says of its tensors besides names and shapes; rows fold only where all of it is equal."""

    dtype: str = ""
    source_shape: Sizes | None = None
    words: str = ""
    certainty: Certainty | None = None
    rule: str = ""
    network: str = ""
    whole: bool = False


def source_shape(step: Step, plan: Plan) -> Shape | None:
    """Return the shape of a single source, where it differs from that of the slot."""
    if len(step.feeds) != 1 or step.feeds[0].key not in plan.source_specs:
        return None
    shape = plan.source_specs[step.feeds[0].key].shape
    return None if shape == step.slot.spec.shape else shape


def row(
    step: Step, common_dtype: DType | None, *, shaped: bool, source: Shape | None = None, others: bool = False
) -> Row:
    """Return the row of a step; `shaped` with its size, `others` with the other readings of what is doubtful."""
    feeds = tuple(printable(feed.key) for feed in step.feeds)
    alternatives = step.alternatives if others else ()
    spec = step.slot.spec
    kind = str(spec.dtype) if shaped and spec.dtype is not common_dtype else ""
    plain = not step.ops and step.known is None and not any(feed.ops for feed in step.feeds)
    words = "" if plain else "; ".join(text for text in (printable(step.words(), 120), part_words(step)) if text)
    if shaped:
        words = words.replace(f" to {shape_words(spec.shape)}", "")  # said beside the name
    sentences = (printable(step.why.doubt or step.why.text, 400), *(printable(a.text) for a in alternatives))
    network = step.feeds[0].network if step.feeds else ""
    return Row(
        printable(spec.name),
        (feeds, *map(_alternative_names, alternatives)),
        sentences=sentences,
        shape=spec.shape if shaped else None,
        numel=spec.numel,
        facts=Facts(kind, source, words, step.certainty, step.why.rule, network),
    )


def _alternative_names(other: Alternative) -> tuple[str, ...]:
    shown = tuple(printable(key) for key in other.keys[:MOST_NAMES])
    return (*shown, "…") if len(other.keys) > MOST_NAMES else shown


def unused_row(one: Unused, common_dtype: DType | None) -> Row:
    """Return the row of a source tensor without a place, with what it is most similar to."""
    kind = "" if one.spec.dtype is common_dtype else str(one.spec.dtype)
    similar = ((printable(one.similar[0]),),) if one.similar else ()
    return Row(
        printable(one.spec.name),
        ((), *similar),
        sentences=(printable(one.why.text, 400), *("",) * len(similar)),
        shape=one.spec.shape,
        numel=one.spec.numel,
        facts=Facts(dtype=kind, rule=one.why.rule, network=one.network),
    )


def fold_sizes(rows: Sequence[Row]) -> list[Fold]:
    """Return the folds of `rows`; where that makes a long list, those that differ in sizes alone are one, `[64..512, 3]`.

    The number of dimensions is the same in all that a fold stands for.
    """
    folds = fold(rows)
    if len(folds) <= FEW_LINES:
        return folds
    alike = fold(
        one._replace(shape=_blank(one.shape), facts=_with_source(one.facts, _blank(_source_of(one)))) for one in rows
    )
    if len(alike) == len(folds):
        return folds
    by_name = defaultdict[tuple[str, Sizes | None], list[Row]](list)  # several of a name that was cut for its length
    for one in rows:
        by_name[one.name, _blank(one.shape)].append(one)
    return [_with_spans(one, by_name) for one in alike]


def fold_modules(rows: Sequence[Row], names: Sequence[str]) -> list[Fold]:
    """Return the folds of `rows`; where that makes a long list, whole modules of one cause are one row `module.*`.

    A module is whole when every one of `names` in it is among the rows of that cause.
    """
    folds = fold(rows)
    if len(folds) <= FEW_LINES:
        return folds
    causes: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        causes.setdefault(row.sentences, []).append(row)
    totals = Counter(prefix for name in names for prefix in _enclosing_modules(name))
    out: list[Row] = []
    for members in causes.values():
        short = len(members) <= FEW_LINES or (len(causes) > 1 and len(fold(members)) <= FEW_LINES)
        out.extend(members if short else _join_whole_modules(members, totals))
    return fold(out)


def _join_whole_modules(rows: Sequence[Row], totals: Counter[str]) -> Iterable[Row]:
    """Return the rows with those of each whole module as one, at the place of its first."""
    counted = Counter(prefix for row in rows for prefix in _enclosing_modules(row.name))
    out: dict[str, Row] = {}
    for row in rows:
        whole = next((p for p in _enclosing_modules(row.name) if totals[p] == counted[p] > 1), None)
        if whole is None:
            out[row.name] = row
            continue
        before = out.get(whole)
        out[whole] = Row(
            f"{whole}*",
            ((),),
            sentences=row.sentences[:1],
            numel=row.numel + (before.numel if before else 0),
            weight=1 + (before.weight if before else 0),
            facts=Facts(whole=True),
        )
    return out.values()


def _enclosing_modules(name: str) -> list[str]:
    """Return the paths of all modules around a tensor, the outermost first, each with its dot."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: at + 1]) + "." for at in range(min(len(parts), MAX_DEPTH))]


def _with_spans(one: Fold, rows: Mapping[tuple[str, Sizes | None], Sequence[Row]]) -> Fold:
    """Return a fold of rows that differ in sizes, its shape given as spans of sizes."""
    blanks = cycle(one.shapes)
    members = [rows[names[0], next(blanks)] for names in one.expand()]
    width = len(one.leaves)
    shapes = tuple(_span([row.shape for found in members[at::width] for row in found]) for at in range(width))
    source = _span([_source_of(row) for found in members for row in found])
    return replace(one, shapes=shapes, facts=_with_source(one.facts, source))


def _span(shapes: Sequence[Sizes | None]) -> Sizes | None:
    """Return shapes of as many dimensions as one, each dimension from the least to the greatest size."""
    known = [shape for shape in shapes if shape is not None]
    return tuple([_least_to_greatest(set(sizes)) for sizes in zip(*known, strict=True)]) if known else None


def _least_to_greatest(sizes: Collection[int | str]) -> int | str:
    numbers = sorted(map(int, sizes))
    return numbers[0] if len(numbers) == 1 else f"{numbers[0]}..{numbers[-1]}"


def _blank(shape: Sizes | None) -> Sizes | None:
    return None if shape is None else ("*",) * len(shape)


def _source_of(one: Row) -> Sizes | None:
    return one.facts.source_shape if isinstance(one.facts, Facts) else None


def _with_source(facts: Hashable, shape: Sizes | None) -> Hashable:
    return facts._replace(source_shape=shape) if isinstance(facts, Facts) else facts
