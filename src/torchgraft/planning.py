"""How a plan is made from an opened source and a surveyed target: the one place where matching and adapting meet.

In bulk where both sides are alike, which is asked of all names and shapes at once (`alike`, `copied`); else leaf by leaf
(`match`, `adapt`): of large models for a few members of long lists, where these can speak for the others (`thinned`), else
for all. The first two are but shorter ways to what the last would say.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from torchgraft.contradictions import expect_consistent
from torchgraft.core.errors import UsageError
from torchgraft.core.formatting import tensors
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Matching, Ranks
from torchgraft.core.objections import Objection
from torchgraft.core.places import Walk, is_module
from torchgraft.core.plan import (
    Action,
    Certainty,
    Plan,
    Step,
    Unused,
    Why,
)
from torchgraft.core.specs import Network, Source, Target, TensorSpec
from torchgraft.core.system.fast_objects import collector_paused
from torchgraft.matching import (
    Asked,
    Known,
    Models,
    alike,
    averaged_beside,
    choose,
    join_ranks,
    keep_part,
    match,
    only,
    origin_of,
    require_weights,
    said_in_other_terms,
)
from torchgraft.reading import open_checkpoint, part_of
from torchgraft.reporting import renderers

log = logging.getLogger("torchgraft")

if TYPE_CHECKING:
    from torchgraft.matching.names.rules import Rules
    from torchgraft.matching.select import Choice
    from torchgraft.request import Request
    from torchgraft.surveying.hooks import Renames

SameValues = Callable[[Mapping[str, TensorSpec], Target], Mapping[str, str]]


def make_plan(source: Source, target: Target, request: Request, model: object = None) -> Plan:
    """Return the plan for an opened source and a surveyed target; `model` lends its own loading code, if it is there."""
    with collector_paused():
        return _make_plan(source, target, request, model)


def _make_plan(source: Source, target: Target, request: Request, model: object) -> Plan:
    from torchgraft.adapting import named_row_notes, rank_note, weighed

    start = time.perf_counter()
    names = [name for slot in target.slots for name in slot.names]
    request = replace(request, rules=request.rules.counted_from(names))
    require_weights(source.networks, source.origin)
    ranks = join_ranks(source.networks, target.slots, request.tensor_parallel, request.rules)
    choice = choose((ranks.network,) if ranks else source.networks, target.slots, request.prefer)
    request = request.without_prefixes(choice.network.specs, names)
    hooks = _renames_by_hooks(model, source, choice.network)
    plan = None if ranks or hooks.renames else _plan_of_copies(choice, target, request)
    if plan is None:
        given = Given(choice, target, request, ranks, hooks.renames)
        draft = _plan_of_few(source, given) or _plan_of_all(source, given)
        plan = _as_asked(weighed(draft, _picked(request.rules, draft, target)), request, target)
    objections, told = _of_a_part(source, plan)
    said = said_in_other_terms(plan.steps)
    beside = () if request.prefer else _also_held(source, plan)
    meant = () if request.options.axis_names else named_row_notes(plan, source.metadata)
    return replace(
        plan,
        objections=(*objections, *plan.objections),
        notes=tuple(
            n
            for n in (choice.note, *told, *hooks.notes, rank_note(plan, ranks), said, *plan.notes, *beside, *meant)
            if n
        ),
        origin=source.origin,
        format=source.format,
        seconds=time.perf_counter() - start,
        renderers=renderers("plan"),
    )


def _plan_of_copies(choice: Choice, target: Target, request: Request) -> Plan | None:
    """Return the plan where both sides are alike, decided for all tensors at once; None where they must be weighed."""
    from torchgraft.adapting import copied

    network = choice.network
    both = alike(network.specs, target.slots) if request.leaves_open else None
    plan = copied(both, target, network, request.policy) if both else None
    log.debug(
        "both sides are %s", "alike, decided for all tensors at once" if plan else "not alike, decided one by one"
    )
    return plan and replace(plan, objections=(*_several_networks(choice), *plan.objections))


@dataclass(frozen=True, slots=True)
class Given:
    """What a plan is made of; `renames` are names that the model's own loading code gives to old keys."""

    choice: Choice
    target: Target
    request: Request
    ranks: Ranks | None
    renames: Mapping[str, str]


def _plan_of_few(source: Source, given: Given) -> Plan | None:
    """Return the plan where a few members of long lists stand for the others; None where they can't."""
    from torchgraft.thinning import UnevenError, thinned

    if not given.request.leaves_open or given.ranks or given.renames:
        return None
    network = given.choice.network
    few = thinned(network, given.target)
    if few is None:
        return None

    def not_asked(*_: object) -> Mapping[str, str]:
        if _repeats(source, network, network.specs, given.target):
            raise UnevenError("the file holds tensors several times")
        return {}

    choice = replace(given.choice, network=few.network)
    try:
        plan = _plan_of_all(source, replace(given, choice=choice, target=few.target), not_asked)
        return None if plan.objections else few.extended(plan)
    except (UnevenError, UsageError) as error:
        log.debug("a few members of long lists can't stand for all: %s", error)
        return None


def _plan_of_all(source: Source, given: Given, same_values: SameValues | None = None) -> Plan:
    """Return the plan to be weighed, decided leaf by leaf.

    `same_values` finds what the file holds twice, which else `_repeats` does.
    """
    from torchgraft.adapting import PlanContext, Preferences, SecondNames, adapt, views_of

    choice, target, request, ranks = given.choice, given.target, given.request, given.ranks
    specs, rules = choice.network.specs, request.rules
    expect_consistent(request, target.slots)
    requested = _requested(source, given)
    taken = {feed.key for step in requested.values() for feed in step.feeds}
    left = {key: spec for key, spec in specs.items() if key not in taken} if taken else specs
    views = views_of(
        replace(choice.network, specs=left),
        target,
        request.options,
        source.metadata,
        lambda name: name in requested or rules.is_fresh(name) or rules.is_zero(name),
    )
    left, seen = (views[-1].shown, views[-1].target) if views else (left, target)
    models = _models(source, given, seen)
    shared = choice.network.shared or {}

    filled = {name for name, step in requested.items() if step.feeds}
    asked = Asked(rules=rules, prefer=request.prefer, filled=filled, started=requested.keys() - filled)

    def matched(same: Mapping[str, str]) -> Matching:
        return match(left, models, asked, Known(renamed=given.renames, same=same, placed=taken))

    find = same_values or partial(_repeats, source, choice.network)
    matching, repeats = _with_repeats(matched, shared, lambda: {} if ranks else find(left, seen))
    context = PlanContext(
        options=request.options,
        policy=request.policy,
        preferences=Preferences(
            is_fresh=rules.is_fresh, is_zero=rules.is_zero, on_doubt=request.on_doubt, accept=request.accept
        ),
        network=choice.network.path,
        architecture=models.architecture,
        requested=requested,
        ranks=ranks,
        views=views,
        second=SecondNames(shared, repeats),
        source_grids=models.source.grids if models.source else frozenset(),
    )
    plan = adapt(matching, target, specs, context)
    return replace(plan, objections=(*_fits_several_networks(matching), *_several_networks(choice, matching)))


def _with_repeats(
    matched: Callable[[Mapping[str, str]], Matching],
    shared: Mapping[str, str],
    find: Callable[[], Mapping[str, str]],
) -> tuple[Matching, Mapping[str, str]]:
    """Return the matching, and which tensors repeat others' values; these are read only where the matching leaves something open.

    `shared` are the names of the file that are one tensor.
    """
    matching = matched(shared)
    repeats = find() if _is_open(matching) else {}
    if repeats:
        log.debug(
            "that leaves something open, and %d tensors hold others' values again: matched once more", len(repeats)
        )
        matching = matched({**shared, **repeats})
    return matching, repeats


def _models(source: Source, given: Given, seen: Target) -> Models:
    """Return the model as it is `seen`, with what is known of the one that the file was saved from."""
    request, origin = given.request, None
    if request.source_model is not None:
        made_of = target_of(request.source_model)
        origin = origin_of(made_of, given.choice.network.specs, by_values=request.runs_models)
    return Models(seen, origin, request.stated, str(source.metadata.get("general.architecture", "")))


def _requested(source: Source, given: Given) -> dict[str, Step]:
    """Return the steps that the caller's options make by themselves, except those that stay fresh or start at zero."""
    from torchgraft.adapting import requested_steps

    network, request = given.choice.network, given.request
    rules = _in_the_file(request.rules, network.specs, given.target)

    def names(key: str) -> list[str]:
        return [name for name, _ in rules.present([key])]

    steps = requested_steps(network, given.target, request.options, source.metadata, names)
    kept = (request.rules.is_fresh, request.rules.is_zero)
    return {
        name: step for name, step in steps.items() if not any(is_kept(n) for is_kept in kept for n in step.slot.names)
    }


def _picked(rules: Rules, plan: Plan, target: Target) -> Callable[[str], bool]:
    """Return what says of a list of layers whether the caller picks among them."""
    there = _in_the_file(rules, plan.source_specs, target) if rules.layers else rules
    return lambda path: rules.picks_from(path) or there.picks_from(path)


def _as_asked(plan: Plan, request: Request, target: Target) -> Plan:
    """Return the plan, with what isn't used or stays fresh by the caller's `layers` and `prefer` told so."""
    return replace(
        plan,
        steps=_left_by_picks(request.rules, plan.steps),
        unused=_seen_from(request.prefer, _not_picked(request.rules, plan, target), plan.source_specs),
    )


def _seen_from(prefer: str | None, unused: tuple[Unused, ...], specs: Mapping[str, TensorSpec]) -> tuple[Unused, ...]:
    """Return what is unused, with what lies outside of the part that the caller prefers told so."""
    _, outside = keep_part(specs, prefer)
    if not outside:
        return unused
    why, left = Why(Ground.NO_COUNTERPART, f"outside of what prefer={prefer!r} takes"), set(outside)
    return tuple(replace(u, why=why) if u.spec.name in left and u.why.rule == why.rule else u for u in unused)


def _not_picked(rules: Rules, plan: Plan, target: Target) -> tuple[Unused, ...]:
    """Return what is unused, with the layers that `layers=` passes over told so."""
    if not rules.layers:
        return plan.unused
    rules = _in_the_file(rules, plan.source_specs, target)
    why = Why(Ground.USER_RULE, "layers= passes over it")
    return tuple(
        replace(one, why=why, similar=())
        if one.why.rule == Ground.NO_COUNTERPART and not rules.present([one.spec.name])
        else one
        for one in plan.unused
    )


def _in_the_file(rules: Rules, specs: Mapping[str, TensorSpec], target: Target) -> Rules:
    """Return the rules with lists of layers under the path that they have in the file."""
    return rules.in_the_file(list(specs), [name for slot in target.slots for name in slot.names])


def _left_by_picks(rules: Rules, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Return the steps, with layers of the model that `layers=` gives none of the file told so."""
    if not rules.layers:
        return steps
    why = Why(Ground.NO_COUNTERPART, "layers= gives it no layer of the file")
    return tuple(
        replace(step, why=why)
        if step.action is Action.FRESH
        and step.why.rule == why.rule
        and any(map(rules.is_behind_picks, step.slot.names))
        else step
        for step in steps
    )


def _is_open(matching: Matching) -> bool:
    """Return whether the matching leaves a place of the model empty or in doubt, or has another reading."""
    doubted = any(m.certainty is Certainty.DOUBT for m in matching.matches)
    return doubted or bool(matching.free_targets or matching.rivals)


def _repeats(source: Source, network: Network, left: Mapping[str, TensorSpec], target: Target) -> Mapping[str, str]:
    """Return name -> first name of tensors with equal values, for sizes of which the file has more tensors than the model."""
    from torchgraft.verifying import find_repeats

    specs = [spec for name, spec in left.items() if network.specs.get(name) == spec and spec.dtype.is_float]
    wanted = Counter(slot.spec.numel for slot in target.slots if slot.persistent)
    held = Counter(spec.numel for spec in specs)
    crowded = [spec for spec in specs if 0 < wanted[spec.numel] < held[spec.numel]]
    return find_repeats(source, network.path, crowded) if crowded else {}


def _fits_several_networks(matching: Matching) -> Iterator[Objection]:
    """Yield that several parts of the model fit equally."""
    if matching.homes:
        first = matching.homes[0]
        fact = (
            f"what the file holds under {matching.chosen!r} fits several parts of the model equally: "
            f"{', '.join(map(repr, matching.homes))}"
        )
        remedy = (
            f"fill all of them with fan_out={{{matching.chosen!r}: {list(matching.homes)}}}, or one, e.g. "
            f"rename={{{matching.chosen!r}: {first!r}}}"
        )
        yield Objection("container", fact, matching.homes, remedy)


def _of_a_part(source: Source, plan: Plan) -> tuple[tuple[Objection, ...], tuple[str, ...]]:
    """Return what speaks against one file of several whose part of the weights doesn't do for the model, and the source's warnings,
    without what that says.
    """
    part = part_of(source)
    left = {s.slot.name for s in (*plan.fresh, *plan.doubtful) if s.why.rule != Ground.USER_RULE} if part else ()
    warnings = tuple(one for one in source.warnings if not (part and one.startswith(part)))
    if not left:
        return (), warnings
    fact = f"{part}, and {tensors(len(left))} of the model {'finds' if len(left) == 1 else 'find'} nothing sure in it"
    remedy = (
        "give the path of the folder, which has all, or, if this part is what you want, say "
        "policy=tg.Policy(partial=tg.Verdict.ACCEPT)"
    )
    return (Objection("partial", fact, (), remedy),), warnings


def _also_held(source: Source, plan: Plan) -> Iterator[str]:
    """Yield what else the file holds that one may want: averaged weights, the state of an optimizer."""
    yield averaged_beside(unused.spec.name for unused in plan.unused if not unused.quiet)
    if any(network.role == "optimizer" for network in source.networks):
        yield "the file also holds the state of an optimizer, which is not loaded: optimizer_state() carries it over"


def _several_networks(choice: Choice, matching: Matching | None = None) -> Iterator[Objection]:
    """Yield that several networks of the file, or several parts of the one that was matched, fit equally."""
    rivals = (*choice.rivals, *(matching.rivals if matching else ()))
    if rivals:
        part = matching.chosen if matching and not choice.rivals else choice.network.path
        mine = part or "top level"
        fact = f"several networks in the file fit equally: {', '.join(map(repr, (mine, *rivals)))}"
        yield Objection("container", fact, (mine, *rivals), f"choose one, e.g. prefer={part!r}")


def target_of(model: object) -> Target:
    """Return what a model consists of; of a checkpoint, what its names and shapes stand for."""
    from torchgraft.surveying import survey, target_from_specs

    if isinstance(model, Walk) or is_module(model):
        return survey(model)
    with open_checkpoint(model) as source:
        network = only(source.networks, source.origin)
        return target_from_specs(network.specs, network.shared)


def _renames_by_hooks(model: object, source: Source, network: Network) -> Renames:
    """Return what the model's own load hooks make of the file's names; nothing for models without such code.

    Notes say what such code would do beside that.
    """
    from torchgraft.surveying import Renames, rename_by_hooks, skipped_code

    if not isinstance(model, Walk) and not is_module(model):
        return Renames()
    versions = source.metadata.get("versions")
    mine = versions.get(network.path) if isinstance(versions, dict) else None
    module: Any = model
    found = rename_by_hooks(module, network.specs, mine)
    return replace(found, notes=(*found.notes, *skipped_code(module)))
