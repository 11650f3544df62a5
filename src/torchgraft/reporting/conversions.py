"""The view of a learned conversion: every tensor that it makes, and every one that it leaves out, in one place each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torchgraft.core.errors import printable
from torchgraft.core.figures import tensors
from torchgraft.core.results.conversion import Computed, Conversion, Output
from torchgraft.reporting.folding import Row, fold
from torchgraft.reporting.view import Group, Section, View, remark_section, told
from torchgraft.reporting.words import figures, shape_words


def conversion_view(found: Conversion) -> View:
    """Return the view of a conversion: what is moved, what is made from nothing, what is computed, what is left out."""
    parts = {
        "same": [o for o in found.outputs if o.plain and o.name == o.keys[0]],
        "renamed": [o for o in found.outputs if o.plain and o.name != o.keys[0]],
        "rearranged": [o for o in found.outputs if o.feeds and not o.plain],
        "constant": [o for o in found.outputs if not o.feeds],
    }
    total = len(found.outputs) + len(found.computed)
    verdict = f"{tensors(total)} made of {len(found.sources)}, all by moving data or constant"
    if found.computed:
        verdict = (
            f"{len(found.outputs)} of {tensors(total)} made by moving data or constant, {len(found.computed)} computed"
        )
    dropped = tuple(Group(cause=one.pattern, count=one.count) for one in fold(Row(printable(n)) for n in found.dropped))
    sections = told(
        _computed(found.computed),
        _outputs("same", parts["same"], _bare),
        _outputs("renamed", parts["renamed"], _renamed),
        _outputs("rearranged", parts["rearranged"], _rearranged),
        _outputs("constant", parts["constant"], _constant),
        Section(
            title="left out", tone="care", figures=tensors(len(found.dropped)), groups=dropped, count=len(found.dropped)
        ),
        remark_section("no tensors", [printable(name) for name in found.skipped]),
    )
    counts = {
        "computed": len(found.computed),
        **{name: len(part) for name, part in parts.items()},
        "dropped": len(found.dropped),
    }
    return View(verdict=verdict, tone="good" if found.complete else "care", origin="", sections=sections, counts=counts)


def _outputs(title: str, outputs: Sequence[Output], row: Callable[[Output], Row]) -> Section:
    amount = figures(len(outputs), sum(output.spec.numel for output in outputs))
    groups = []
    for one in fold(row(output) for output in outputs):
        shapes = [shape_words(shape) for shape in one.shapes]
        shape = " and ".join(shapes[:1] if len(set(shapes)) == 1 else shapes)
        sources = " + ".join(one.related(0)) if one.groups and one.groups[0] else ""
        fed = f" <- {sources}" if sources else ""
        said = f" ({one.facts})" if one.facts else ""
        groups.append(Group(cause=f"{one.pattern} {shape}{fed}{said}", count=one.count))
    return Section(title=title, figures=amount, groups=tuple(groups), count=len(outputs))


def _bare(output: Output) -> Row:
    return Row(printable(output.name), shape=output.spec.shape, numel=output.spec.numel)


def _renamed(output: Output) -> Row:
    return Row(
        printable(output.name), (tuple(map(printable, output.keys)),), shape=output.spec.shape, numel=output.spec.numel
    )


def _rearranged(output: Output) -> Row:
    return _renamed(output)._replace(facts=_words(output))


def _constant(output: Output) -> Row:
    return _bare(output)._replace(facts=_words(output))


def _words(output: Output) -> str:
    own = list(dict.fromkeys(", ".join(op.describe() for op in feed.ops) for feed in output.feeds))
    each = [f"{own[0]} of each" if len(output.feeds) > 1 and own[0] else own[0]] if len(own) == 1 else own
    return ", ".join(text for text in (*(t for t in each if t), *(op.describe() for op in output.ops)))


def _computed(computed: Sequence[Computed]) -> Section:
    groups = tuple(
        Group(cause=f"{printable(c.spec.name)} {shape_words(c.spec.shape)}{_of(c)}: {c.why}") for c in computed
    )
    return Section(title="computed", tone="care", figures=tensors(len(computed)), groups=groups, count=len(computed))


def _of(found: Computed) -> str:
    if not found.keys:
        return ""
    if not found.complete:
        return f" from {len(found.keys)} tensors or fewer"
    return f" from {', '.join(map(printable, found.keys[:4]))}" + (
        f" and {len(found.keys) - 4} more" if len(found.keys) > 4 else ""
    )
