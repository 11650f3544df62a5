"""Why two models give different outputs: where their runs part, and what explains it, the surest first."""

from __future__ import annotations

from torchgraft.core.results.recording import Recording
from torchgraft.core.results.verification import Cause, Divergence, SettingDifference, Site
from torchgraft.verifying.divergence import DivergencePoint, Matches
from torchgraft.verifying.explaining.configs import config_causes
from torchgraft.verifying.explaining.constants import where_constants_part, with_rotary_bases
from torchgraft.verifying.explaining.operations import definite_causes, structural_causes
from torchgraft.verifying.explaining.planned_values import PlannedValues
from torchgraft.verifying.explaining.recorded_values import recorded_causes
from torchgraft.verifying.explaining.settings import ComparedSettings
from torchgraft.verifying.request import VerifyRequest

MOST_CAUSES = 8
# What kind of cause a setting is, where it is no mere "setting".
_CAUSE_KINDS = {
    "heads": "heads", "activation": "activation", "negative_slope": "activation", "approximate": "activation",
    "scale": "scale", "normalize_before": "structure", "rotary base": "rotary", "padding": "padding",
    "padding_mode": "padding",
}  # fmt: skip
# Kinds of causes that say what differs, and not by which setting or tensor.
_WITHOUT_SETTING = frozenset({"structure", "failure", "buffer", "scale", "rotary", "order"})


def explain(
    request: VerifyRequest, matches: Matches, number: int, *, planned: PlannedValues, settings: ComparedSettings
) -> tuple[Divergence | None, list[Cause]]:
    """Return where the two runs of input `number` part, and the likely causes, the surest first."""
    known_wrong = None
    if request.plan_given:
        known_wrong = _first_use(matches.target, {name for step in planned.deviating_steps for name in step.slot.names})
    point = matches.first_divergence(dict(settings.pairs), known_wrong)
    failures = [
        Cause(kind="failure", text=f"the model raised {failure}", remedy="see where the two part before")
        for failure in (matches.target.failure,)
        if failure
    ]
    if point is None:
        return None, [*failures, *map(planned.cause, planned.deviating_steps[:MOST_CAUSES])]
    point = where_constants_part(matches, point)
    divergence = Divergence(
        source=_site(matches.source, point.source), target=_site(matches.target, point.target), input=number
    )
    feeding = set(divergence.target.weights if divergence.target else ())
    inside, switches, around = _setting_causes(point, matches, settings.differences)
    causes = [*failures, *_causes_at(point, matches, request, planned=planned, feeding=feeding, inside=inside)]
    causes += switches if causes else _general_causes(point, matches, request, planned=planned, switches=switches)
    causes += around
    causes = causes or [_setting_cause(one) for one in settings.differences if one.matters]
    if request.source is not None and all(cause.kind in _WITHOUT_SETTING for cause in causes):
        causes += config_causes(request.model, request.source, settings.pairs)
    causes = [with_rotary_bases(cause, planned.target, planned.source) for cause in dict.fromkeys(causes)]
    return divergence, causes[:MOST_CAUSES]


def _causes_at(
    point: DivergencePoint,
    matches: Matches,
    request: VerifyRequest,
    *,
    planned: PlannedValues,
    feeding: set[str],
    inside: list[Cause],
) -> list[Cause]:
    """Return what differs right where the runs part: modes, weights that are `feeding` the operation, settings `inside`.

    Statistics differ as a matter of course in another mode, so that modes come first.
    """
    recorded = list(recorded_causes(request.model, request.plan, request.recorded_weights, feeding))
    deviating = planned.deviating_steps
    wrong = {name for step in deviating for name in step.slot.names} | {str(cause.target) for cause in recorded}
    definite = definite_causes(matches, point, wrong)
    return [
        *(cause for cause in definite if cause.kind == "mode"),
        *(planned.cause(step) for step in deviating if feeding.intersection(step.slot.names)),
        *recorded,
        *(planned.cause(step) for step in planned.unfilled_steps(feeding)),
        *inside,
        *(cause for cause in definite if cause.kind != "mode" and not _is_covered(cause, inside)),
    ]


def _general_causes(
    point: DivergencePoint,
    matches: Matches,
    request: VerifyRequest,
    *,
    planned: PlannedValues,
    switches: list[Cause],
) -> list[Cause]:
    """Return what may explain it from afar: weights that differ anywhere, other operations, `switches` of modules around."""
    structural = structural_causes(matches, point, planned.fed_by)
    return [
        *(planned.cause(step) for step in planned.deviating_steps[:MOST_CAUSES]),
        *recorded_causes(request.model, request.plan, request.recorded_weights),
        *([*switches, *structural] if _is_vague(structural) else [*structural, *switches]),
    ]


def _is_covered(cause: Cause, settings: list[Cause]) -> bool:
    """Whether a setting says what an operation shows: the same two values, or another activation."""
    return any(
        (cause.target, cause.source) == (one.target, one.source) or cause.kind == one.kind == "activation"
        for one in settings
    )


def _is_vague(causes: list[Cause]) -> bool:
    """Whether causes only say that other steps are taken, which a switch of a module around may decide."""
    return all(cause.kind == "structure" for cause in causes)


def _first_use(recording: Recording, names: set[str]) -> int | None:
    """Return the first operation on activations that one of these weights feeds."""
    for number, op in enumerate(recording.operations):
        live = any(recording.values[n].live for n in op.outputs)
        if live and any(not names.isdisjoint(recording.values[n].weights) for n in op.inputs):
            return number
    return None


def _setting_causes(
    point: DivergencePoint, matches: Matches, settings: tuple[SettingDifference, ...]
) -> tuple[list[Cause], list[Cause], list[Cause]]:
    """Return settings that differ in the module where the runs part, switches of those around it, and the rest near it.

    A switch is on or off, and mostly decides which steps a module takes.
    """
    in_target = point.target is not None
    recording = matches.target if in_target else matches.source
    at = recording.operations[(point.target if in_target else point.source) or 0].module
    inside: list[Cause] = []
    switches: list[Cause] = []
    around: list[Cause] = []
    for one in settings:
        if not one.matters:
            continue
        cause, where = _setting_cause(one), one.module if in_target else one.source_module
        if where == at:
            inside.append(cause)
        elif not where or at.startswith(where + "."):
            (switches if isinstance(one.target, bool) else around).append(cause)
        elif at and where.startswith(at + "."):
            around.append(cause)
    return inside, switches, around


def _setting_cause(one: SettingDifference) -> Cause:
    return Cause(
        kind=_CAUSE_KINDS.get(one.name, "setting"),
        text=f"{one.module or 'the model itself'}: {one.name} is {one.target}, in the source {one.source}",
        remedy=f"build the model with {one.name} {one.source}",
        module=one.module,
        source_module=one.source_module,
        target=one.target,
        source=one.source,
    )


def _site(recording: Recording, number: int | None) -> Site | None:
    if number is None:
        return None
    op = recording.operations[number]
    weights = tuple(dict.fromkeys(name for n in op.inputs for name in recording.values[n].weights))
    return Site(
        number=number,
        total=len(recording.operations),
        name=op.name,
        module=op.module,
        kind=op.kind,
        weights=weights,
        shapes=op.shapes,
        settings=op.settings,
    )
