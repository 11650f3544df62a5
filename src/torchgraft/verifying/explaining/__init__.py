"""Where two runs part, as operations of both, and what explains it: values, settings, operations; the surest first."""

from __future__ import annotations

from torchgraft.core.results.recording import Recording
from torchgraft.core.results.verification import Cause, Divergence, SettingDifference, Site
from torchgraft.verifying.arguments import Question
from torchgraft.verifying.divergence import Matches, Parting
from torchgraft.verifying.explaining.constants import with_bases
from torchgraft.verifying.explaining.operations import facts_at, signs_at
from torchgraft.verifying.explaining.planned_values import Planned
from torchgraft.verifying.explaining.settings import Compared

MOST_CAUSES = 8
# Settings of a module that change the order of what is in it.
_ORDERS = frozenset({"normalize_before"})
# What kind of cause a setting is, where it is no mere "setting".
_KINDS = {
    "heads": "heads", "activation": "activation", "negative_slope": "activation", "approximate": "activation",
    "scale": "scale", "normalize_before": "structure", "rotary base": "rotary", "padding": "padding",
    "padding_mode": "padding",
}  # fmt: skip


def explained(
    asked: Question, matches: Matches, number: int, compared: Compared
) -> tuple[Divergence | None, list[Cause]]:
    """Return where the two runs of input `number` part, and the likely causes, the surest first."""
    planned = Planned(asked.plan, asked.model, asked.source)
    wrong = planned.differing()
    first = _first_use(matches.target, {name for step in wrong for name in step.slot.names}) if asked.stated else None
    parting = matches.parting(dict(compared.pairs), first)
    causes: list[Cause] = []
    if failure := matches.target.failure:
        causes.append(Cause(kind="failure", text=f"the model raised {failure}", remedy="see where the two part before"))
    if parting is None:
        return None, [*causes, *map(planned.cause, wrong[:MOST_CAUSES])]
    sites = (_site(matches.source, parting.source), _site(matches.target, parting.target))
    fed = set(sites[1].weights if sites[1] else ())
    modes, facts = _split(facts_at(matches, parting))
    causes += modes
    causes += [planned.cause(step) for step in wrong if fed.intersection(step.slot.names)]
    causes += [planned.cause(step) for step in planned.unfilled(fed)]
    here, around = _from_settings(parting, matches, compared.settings)
    causes += here
    causes += [fact for fact in facts if not _is_said(fact, here)]
    if not causes:
        causes += [planned.cause(step) for step in wrong[:MOST_CAUSES]]
        causes += signs_at(matches, parting)
    causes += around
    divergence = Divergence(source=sites[0], target=sites[1], input=number)
    named = [with_bases(cause, planned.target, planned.source) for cause in dict.fromkeys(causes)]
    return divergence, named[:MOST_CAUSES]


def _is_said(fact: Cause, settings: list[Cause]) -> bool:
    """Whether a setting says what an operation shows: the same two values, or another activation."""
    return any(
        (fact.target, fact.source) == (c.target, c.source) or fact.kind == c.kind == "activation" for c in settings
    )


def _first_use(recording: Recording, names: set[str]) -> int | None:
    """Return the first operation on activations that one of these weights feeds."""
    for number, op in enumerate(recording.operations):
        values = [recording.values[n] for n in op.inputs]
        live = any(recording.values[n].live for n in op.outputs)
        if live and any(names.intersection(value.weights) for value in values):
            return number
    return None


def _split(causes: list[Cause]) -> tuple[list[Cause], list[Cause]]:
    """Return causes of mode, and the others: in another mode, statistics differ as a matter of course."""
    return [c for c in causes if c.kind == "mode"], [c for c in causes if c.kind != "mode"]


def _from_settings(
    parting: Parting, matches: Matches, settings: tuple[SettingDifference, ...]
) -> tuple[list[Cause], list[Cause]]:
    """Return settings that differ in the very module where the runs part, and in those around it and inside it."""
    if parting.target is not None:
        at = matches.target.operations[parting.target].module
    else:
        at = matches.source.operations[parting.source or 0].module
    here: list[Cause] = []
    around: list[Cause] = []
    for one in settings:
        if not one.matters:
            continue
        cause, where = _setting_cause(one), one.module if parting.target is not None else one.source_module
        if where == at:
            here.append(cause)
        elif not where or at.startswith(where + "."):
            (here if one.name in _ORDERS else around).append(cause)
        elif at and where.startswith(at + "."):
            around.append(cause)
    return here, around


def _setting_cause(one: SettingDifference) -> Cause:
    return Cause(
        kind=_KINDS.get(one.name, "setting"),
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
