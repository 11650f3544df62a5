"""The views of verifications and of comparisons of settings."""

from __future__ import annotations

from collections.abc import Sequence

from torchgraft.core.errors import printable
from torchgraft.core.proof import tally
from torchgraft.core.results.recording import family
from torchgraft.core.results.verification import (
    Cause,
    Divergence,
    Hyperparameters,
    OutputComparison,
    SettingDifference,
    Site,
    Verification,
)
from torchgraft.reporting.formatting import shape_words
from torchgraft.reporting.view import Group, Line, Section, View, non_empty, remark_section


def verification_view(found: Verification) -> View:
    """Return the view of a verification: the verdict, outputs, the first difference, causes, settings."""
    inputs = f"{found.inputs} input{'s' * (found.inputs != 1)}"
    if found.passed:
        verdict = f"equal on {inputs}: max rel. diff {found.relative:.2g} (tolerance {found.tolerance:g})"
    elif found.outputs and found.finished:
        verdict = f"outputs differ: {_difference_words(found)}"
    else:
        verdict = "the model could not be run to its end"
    sections = non_empty(
        _output_section(found.outputs),
        _divergence_section(found.divergence, found) if found.divergence else None,
        _cause_section(found.causes),
        _proof_section(found) if found.parts or found.unproved else None,
        _settings_section(found.settings),
        remark_section("notes", found.notes),
    )
    return View(
        verdict=verdict,
        tone="good" if found.passed else "bad",
        origin="",
        sections=sections,
    )


def _difference_words(found: Verification) -> str:
    """Return how outputs differ: those of other shapes by their number, all others by the greatest difference."""
    alike = [one.relative for one in found.outputs if one.source_shape == one.target_shape]
    others = len(found.outputs) - len(alike)
    shapes = f"{others} of {len(found.outputs)} {'has another shape' if others == 1 else 'have other shapes'}"
    figures = f"max rel. diff {max(alike):.2g} (tolerance {found.tolerance:g})" if alike else ""
    return "; ".join([shapes] * bool(others) + [figures] * bool(figures))


def hyperparameters_view(found: Hyperparameters) -> View:
    """Return the view of the settings in which two models differ."""
    relevant = sum(one.matters for one in found.differences)
    words = (
        f"{relevant} setting{'s' * (relevant != 1)} that can change outputs"
        if relevant
        else "no setting that can change outputs"
    )
    verdict = f"{words} differ{'s' * (relevant <= 1)}: {found.compared} pairs of modules compared"
    return View(
        verdict=verdict,
        tone="care" if relevant else "good",
        origin="",
        sections=non_empty(_settings_section(found.differences)),
    )


def _output_section(outputs: Sequence[OutputComparison]) -> Section:
    groups = tuple(Group(cause=_output_words(one)) for one in outputs)
    return Section(title="outputs", figures=str(len(outputs)), groups=groups)


def _output_words(one: OutputComparison) -> str:
    name = printable(one.target) + (f" (source: {printable(one.source)})" if one.source != one.target else "")
    if one.source_shape != one.target_shape:
        return f"{name}: {shape_words(one.target_shape)}, in the source {shape_words(one.source_shape)}"
    held = "equal" if one.passed else "DIFFERS"
    return f"{name} {shape_words(one.target_shape)}: {held}, max abs. diff {one.greatest:.2g}, rel. {one.relative:.2g}"


def _proof_section(found: Verification) -> Section:
    """Return the tensors that are proved, by their means, and those that are not."""
    head, *rest = tally(found.parts, found.unproved)
    title = "proved, as a whole" if found.passed else "proved in parts, not as a whole"
    groups = tuple(Group(cause=printable(words, 2000)) for words in (rest or [head]))
    figures = head if rest else ""
    return Section(title=title, tone="plain" if found.complete else "care", figures=figures, groups=groups)


def _divergence_section(found: Divergence, whole: Verification) -> Section:
    ours, theirs = _site_words(found.target), _site_words(found.source)
    words = [f"model and source: {ours}"] if ours == theirs else [f"model: {ours}", f"source: {theirs}"]
    groups = tuple(Group(cause=text) for text in words)
    matched = f"{whole.matched} of {whole.operations[1]} operations have the source's results"
    seen = f"seen at input {found.input}; " if whole.inputs > 1 else ""
    return Section(title="first difference", tone="bad", figures=seen + matched, groups=groups)


def _site_words(site: Site | None) -> str:
    if site is None:
        return "nothing like it"
    where = printable(site.module) or "the model itself"
    kind = f" ({site.kind})" if site.kind else ""
    shapes = f" on {' and '.join(shape_words(s) for s in site.shapes[:3])}" if site.shapes else ""
    weights = f", fed by {', '.join(map(printable, site.weights[:6]))}" if site.weights else ""
    name = site.name.strip("_")
    sort = family(site.name)
    return (
        f"{where}{kind}, operation {site.number + 1} of {site.total}: "
        f"{name if sort == name else f'{name} ({sort})'}{shapes}{weights}"
    )


def _cause_section(causes: Sequence[Cause]) -> Section:
    groups = tuple(
        Group(cause=printable(one.text, 2000) + (f"; {printable(one.remedy, 400)}" if one.remedy else ""))
        for one in causes
    )
    return Section(title="likely causes", tone="care", figures=str(len(causes)), groups=groups)


def _settings_section(differences: Sequence[SettingDifference]) -> Section:
    grouped: dict[tuple[str, str, str, bool], list[SettingDifference]] = {}
    for one in differences:
        grouped.setdefault((one.name, str(one.target), str(one.source), one.matters), []).append(one)
    groups = []
    for (name, target, source, matters), members in grouped.items():
        remark = "" if matters else ", without effect in evaluation mode"
        lines = tuple(
            Line(
                text=printable(one.module) or "the model itself",
                source=printable(one.source_module) or "the source itself",
            )
            for one in members
        )
        groups.append(
            Group(cause=f"{name} is {target}, in the source {source}{remark}", lines=lines, count=len(members))
        )
    relevant = any(one.matters for one in differences)
    return Section(
        title="settings that differ",
        tone="care" if relevant else "plain",
        figures=str(len(differences)),
        groups=tuple(groups),
    )
