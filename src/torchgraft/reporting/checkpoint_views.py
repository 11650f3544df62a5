"""The views of inspections, diffs, written checkpoints and learned conversions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torchgraft.core.errors import printable
from torchgraft.core.facts import shown
from torchgraft.core.formatting import tensors
from torchgraft.core.results.conversion import Absent, Computed, Conversion, Output
from torchgraft.core.results.diff import Change, Diff
from torchgraft.core.results.inspection import DigestCheck, Inspection, NetworkSummary, Statistics
from torchgraft.core.results.report import Saved
from torchgraft.core.specs import TensorSpec
from torchgraft.reporting.folding import Row, fold
from torchgraft.reporting.formatting import figures, many, shape_words, shapes_words, size
from torchgraft.reporting.view import Group, Section, View, non_empty, remark_section

MOST_FACTS = 12


def inspection_view(found: Inspection) -> View:
    """Return the view of an inspection: what the file holds, then the tensors of the network that load() would take."""
    total, nbytes = found.held
    others = len(found.networks) - 1
    more = f" in {others + 1} networks" if others > 0 else ""
    chosen = f"{tensors(len(found.specs))}" + (f" of network {printable(found.chosen)}" if found.chosen else "")
    sections = non_empty(
        _networks_section(found) if others > 0 else None,
        _choice_section(found) if found.rivals else None,
        remark_section("warnings", found.warnings, "care"),
        _digest_section(found.verification) if found.verification else None,
        _statistics_section(found.statistics) if found.statistics else None,
        remark_section("notes", [found.note] if found.note else []),
        _facts_section(found),
        _tied_section(found.shared),
    )
    listed = Section(title="tensors", figures=chosen, groups=_spec_groups(found.specs), count=len(found.specs))
    return View(
        verdict=f"{printable(found.origin)}: {printable(found.format)}, {tensors(total)}{more}, {size(nbytes)}",
        tone=_tone_of(found),
        origin="",
        sections=(*sections, listed),
    )


def _tone_of(found: Inspection) -> str:
    if found.verification and not found.verification.passed:
        return "bad"
    suspicious = found.statistics is not None and found.statistics.suspicions
    return "care" if found.rivals or found.warnings or suspicious else "good"


def diff_view(diff: Diff) -> View:
    """Return the view of a diff: what is on one side only, what changed, and how much is the same."""
    groups = {
        "added": len(diff.added), "removed": len(diff.removed), "shape changed": len(diff.shape_changed),
        "dtype changed": len(diff.dtype_changed), "value changed": len(diff.value_changed), "same": len(diff.same),
    }  # fmt: skip
    compared = "names, shapes, types and values" if diff.values else "names, shapes and types (values not compared)"
    changes = ", ".join(f"{count} {title}" for title, count in groups.items() if count)
    second = len(diff.old_names) + len(diff.new_names)
    but = f" but for {second} second name{'s' * (second > 1)} of tied tensors" if second else ""
    verdict = (
        f"equal in {compared}{but}: {tensors(len(diff.same))}" if diff.equal else f"{changes}; compared: {compared}"
    )
    sections = non_empty(
        _spec_section("added", "good", diff.added),
        _spec_section("removed", "bad", diff.removed),
        _change_section("shape changed", diff.shape_changed),
        _change_section("dtype changed", diff.dtype_changed),
        _change_section("value changed", diff.value_changed),
        _tied_section(diff.old_names, "tied on the old side only"),
        _tied_section(diff.new_names, "tied on the new side only"),
        remark_section("hint", [diff.hint] if diff.hint else []),
        remark_section("choose", diff.notes, "care"),
    )
    return View(
        verdict=verdict,
        tone="good" if diff.equal else "care",
        sections=sections,
        origin=f"from {printable(diff.old)} to {printable(diff.new)}",
    )


def saved_view(saved: Saved) -> View:
    """Return the view of what was written: where, how much, what is tied, what was left out."""
    shards = f" and {len(saved.files)} shard{'s' * (len(saved.files) > 1)}" if saved.path not in saved.files else ""
    which = f", network {printable(saved.network)}" if saved.network else ""
    left = [f"network {printable(path) or 'at the top level'}" for path in saved.left_out]
    sections = non_empty(
        _tied_section(saved.shared), remark_section("left out", left, "care"), remark_section("notes", saved.notes)
    )
    cast = f", {saved.cast} of them cast" if saved.cast else ""
    verdict = (
        f"wrote {printable(saved.path)}{shards}: {saved.format}, {tensors(saved.tensors)}{cast}, {size(saved.nbytes)}"
    )
    origin = f"from {printable(saved.origin)}{which}" if saved.origin else ""
    return View(verdict=verdict, tone="good", origin=origin, sections=sections)


def _networks_section(found: Inspection) -> Section:
    chosen = None if found.rivals else found.chosen
    groups = tuple(Group(cause=_network_words(network, chosen)) for network in found.networks)
    return Section(title="networks", figures=str(len(groups)), groups=groups)


def _network_words(network: NetworkSummary, chosen: str | None) -> str:
    kinds = ", ".join(
        str(dtype) if len(network.dtypes) == 1 else f"{count} {dtype}" for dtype, count in network.dtypes.items()
    )
    mark = ", listed below" if network.path == chosen else ""
    where = printable(network.path) or "top level"
    return (
        f"{where}: {network.role}, {tensors(network.tensors)}, {many(network.elements)} "
        f"element{'s' * (network.elements != 1)}, {size(network.nbytes)}, {kinds}{mark}"
    )


def _choice_section(found: Inspection) -> Section:
    paths = ", ".join(printable(path) or "top level" for path in (found.chosen, *found.rivals))
    return remark_section("choose", [f"{paths} fit equally well; say which with prefer="], "care")


def _facts_section(found: Inspection) -> Section:
    facts = [f"{key} = {value!r}" for key, value in shown(found.metadata).items()]
    more = [f"… and {len(facts) - MOST_FACTS} more"] if len(facts) > MOST_FACTS else []
    groups = tuple(Group(cause=printable(fact, 160)) for fact in [*facts[:MOST_FACTS], *more])
    return Section(title="beside the tensors", figures=str(len(facts)), groups=groups)


def _digest_section(found: DigestCheck) -> Section:
    """Return what came of comparing digests: what is wrong by name, else one line."""
    compared = f"{tensors(found.compared)} compared with the SHA-256 that the file states"
    wrong = [f"{printable(name)} holds other values" for name in found.differing]
    wrong += [f"{printable(name)} has a digest, and no tensor" for name in found.missing]
    if wrong:
        groups = tuple(Group(cause=text) for text in wrong)
        summary = f"FAILED for {len(wrong)}; {compared}: the file was damaged or changed after it was written"
        return Section(title="verified", tone="bad", figures=summary, groups=groups)
    remarks = [f"{compared}: all hold"] if found.compared else []
    if found.without:
        remarks.append(f"{tensors(len(found.without))} read to the end; the file states no SHA-256 to compare with")
    return remark_section("verified", ["; ".join(remarks)], "good" if found.compared else "care")


def _statistics_section(found: Statistics) -> Section:
    """Return what looks wrong about values, else one line."""
    measured = f"{tensors(len(found.tensors))} of real numbers measured"
    if not found.suspicions:
        return remark_section("values", [f"{measured}: nothing strange"], "good")
    groups = tuple(Group(cause=printable(s.text, 400)) for s in found.suspicions)
    summary = f"{measured}, {len(found.suspicions)} remark{'s' * (len(found.suspicions) != 1)}"
    return Section(title="values", tone="care", figures=summary, groups=groups)


def _tied_section(shared: Mapping[str, str], title: str = "tied") -> Section:
    folds = fold(Row(printable(name), ((printable(first),),)) for name, first in shared.items())
    groups = tuple(Group(cause=f"{one.pattern} = {one.related(0)[0]}", count=one.count) for one in folds)
    return Section(title=title, figures=tensors(len(shared)), groups=groups)


def _spec_groups(specs: Iterable[TensorSpec]) -> tuple[Group, ...]:
    rows = (Row(printable(s.name), (), (), s.shape, s.dtype, s.numel) for s in specs)
    return tuple(
        Group(cause=" ".join((one.pattern, shapes_words(one.shapes), str(one.facts))), count=one.count)
        for one in fold(rows)
    )


def _spec_section(title: str, tone: str, specs: Sequence[TensorSpec]) -> Section:
    amount = figures(len(specs), sum(spec.numel for spec in specs))
    return Section(title=title, tone=tone, figures=amount, groups=_spec_groups(specs), count=len(specs))


def _change_section(title: str, changes: Sequence[Change]) -> Section:
    rows = (Row(printable(c.old.name), facts=_change_words(c)) for c in changes)
    groups = tuple(Group(cause=f"{one.pattern}: {one.facts}", count=one.count) for one in fold(rows))
    return Section(title=title, tone="care", figures=tensors(len(changes)), groups=groups, count=len(changes))


def _change_words(change: Change) -> str:
    if change.old.shape != change.new.shape:
        return f"{shape_words(change.old.shape)} -> {shape_words(change.new.shape)}"
    kinds = "" if change.old.dtype is change.new.dtype else f"{change.old.dtype} -> {change.new.dtype}"
    if change.distance is None:
        return kinds
    if not change.distance.elements:
        return f"{kinds}, values equal"
    share = (
        f"{change.distance.elements} of {change.old.numel} elements differ, by {change.distance.greatest:.3g} at most"
    )
    return f"{kinds}, {share}" if kinds else share


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
    if found.absent:
        whole = len(found.outputs) + len(found.absent)
        verdict = f"{len(found.outputs)} of {tensors(whole)} of the checkpoint given back, {len(found.absent)} not"
    partly, dropped = _names_section("given back in part", found.partly), _names_section("left out", found.dropped)
    sections = non_empty(
        _computed_section(found.computed),
        _absent_section(found.absent),
        *(_output_section(title, outputs) for title, outputs in parts.items()),
        partly,
        dropped,
        remark_section("no tensors", [printable(name) for name in found.skipped]),
    )
    return View(verdict=verdict, tone="good" if found.complete else "care", origin="", sections=sections)


def _output_section(title: str, outputs: Sequence[Output]) -> Section:
    amount = figures(len(outputs), sum(output.spec.numel for output in outputs))
    groups = []
    for one in fold(map(_output_row, outputs)):
        sources = " + ".join(one.related(0))
        fed = f" <- {sources}" if sources else ""
        ops = f" ({one.facts})" if one.facts else ""
        groups.append(Group(cause=f"{one.pattern} {shapes_words(one.shapes)}{fed}{ops}", count=one.count))
    return Section(title=title, figures=amount, groups=tuple(groups), count=len(outputs))


def _output_row(output: Output) -> Row:
    spec = output.spec
    sources = () if output.plain and output.keys == (spec.name,) else tuple(map(printable, output.keys))
    return Row(printable(spec.name), (sources,), shape=spec.shape, numel=spec.numel, facts=_op_words(output))


def _op_words(output: Output) -> str:
    own = list(dict.fromkeys(", ".join(op.describe() for op in feed.ops) for feed in output.feeds))
    each = [f"{own[0]} of each" if len(output.feeds) > 1 and own[0] else own[0]] if len(own) == 1 else own
    return ", ".join(text for text in (*(t for t in each if t), *(op.describe() for op in output.ops)))


def _computed_section(computed: Sequence[Computed]) -> Section:
    groups = tuple(
        Group(cause=f"{printable(c.spec.name)} {shape_words(c.spec.shape)}{_source_words(c)}: {c.why}")
        for c in computed
    )
    return Section(title="computed", tone="care", figures=tensors(len(computed)), groups=groups, count=len(computed))


def _names_section(title: str, names: Sequence[str]) -> Section:
    groups = tuple(Group(cause=one.pattern, count=one.count) for one in fold(Row(printable(name)) for name in names))
    return Section(title=title, tone="care", figures=tensors(len(names)), groups=groups, count=len(names))


def _absent_section(absent: Sequence[Absent]) -> Section:
    rows = (Row(printable(one.spec.name), shape=one.spec.shape, facts=one.why) for one in absent)
    groups = tuple(
        Group(cause=f"{one.pattern} {shapes_words(one.shapes)}: {one.facts}", count=one.count) for one in fold(rows)
    )
    return Section(title="not given back", tone="care", figures=tensors(len(absent)), groups=groups, count=len(absent))


def _source_words(found: Computed) -> str:
    if not found.keys:
        return ""
    if not found.complete:
        return f" from {len(found.keys)} tensors or fewer"
    return f" from {', '.join(map(printable, found.keys[:4]))}" + (
        f" and {len(found.keys) - 4} more" if len(found.keys) > 4 else ""
    )
