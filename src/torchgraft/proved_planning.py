"""Plans that are proved while they are made: both models are run, and outputs settle what names leave open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torchgraft.adapting import Preferences, objections_to, with_preferences
from torchgraft.core.errors import UsageError
from torchgraft.core.objections import Objection
from torchgraft.core.places import is_module
from torchgraft.core.plan import Plan
from torchgraft.core.proof import Proof
from torchgraft.core.specs import Source
from torchgraft.reading import open_checkpoint
from torchgraft.request import make_request

if TYPE_CHECKING:
    from torchgraft.adapting import Options
    from torchgraft.request import Request
    from torchgraft.verifying.golden import Golden
    from torchgraft.verifying.settling import Trial

MOST_GUESSES = 3


def make_proved_plan(
    source: Source, request: Request, model: object, planned: Callable[[object, Request], Plan]
) -> Plan:
    """Return the plan for `model`, settled by runs on the inputs of the request; nothing is left changed.

    `planned` makes a plan for a model and a request.

    Raises:
        UsageError: there is no source model, a model can't be run, or the source's holds other values than the file.
        CheckpointError: what was recorded can't be read.
    """
    from torchgraft.verifying.settling import prove, settle
    from torchgraft.verifying.values.digests import seal_proof

    if not is_module(model):
        given = "golden=" if request.golden is not None else "inputs="
        raise UsageError(f"{given} needs a model that can be run: give an nn.Module")
    taking = replace(request, on_doubt="take", accept="likely")
    best = planned(model, taking)
    found, trial = _first_proved(best, source, _sides(request, best, planned, source, model))
    if not _is_proved(found):
        for options in _other_ways(request.options):
            try:
                other = planned(model, replace(taking, options=options))
            except UsageError:  # the file has nothing of the kind
                continue
            tried = settle(other, source, trial)
            if _is_proved(tried):
                best, found = other, tried
                break
    found = prove(found, source, trial)
    rules = request.rules
    preferences = Preferences(
        is_fresh=rules.is_fresh, is_zero=rules.is_zero, on_doubt=request.on_doubt, accept=request.accept
    )
    made = _trimmed(with_preferences(found, preferences))
    usual = objections_to(best)
    kept = tuple(o for o in best.objections if o not in usual)
    notes = (*made.notes, *([made.proof.words()] if made.proof else []))
    final = replace(made, objections=(*kept, *_unproved(made, request), *made.objections), notes=notes)
    return seal_proof(final, source, trial.inputs)


def _trimmed(plan: Plan) -> Plan:
    """Return the plan with its proof cut to tensors that are filled: doubtful ones may stay fresh after all."""
    proof = plan.proof
    if proof is None:
        return plan
    filled = {step.slot.name for step in plan.steps if step.feeds}
    parts = [replace(part, slots=tuple(slot for slot in part.slots if slot in filled)) for part in proof.parts]
    left = tuple(slot for slot in proof.unproved if slot in filled)
    return replace(plan, proof=replace(proof, parts=tuple(part for part in parts if part.slots), unproved=left))


def _first_proved(plan: Plan, source: Source, trials: Iterable[Trial]) -> tuple[Plan, Trial]:
    """Return the plan with the trial that proved it, the first that does; where none does, with the first of all.

    That outputs differ on an input that was guessed before is reported: it may mean nothing to the models, or a lot.
    """
    from torchgraft.verifying.guessing import input_words
    from torchgraft.verifying.settling import settle

    tried: list[tuple[Plan, Trial]] = []
    for trial in trials:
        found = settle(plan, source, trial)
        if _is_proved(found):
            proof: Any = found.proof
            if tried:
                before = (
                    f"outputs differ on another guessed input, {' and '.join(map(input_words, tried[0][1].inputs))}"
                )
                found = replace(found, proof=replace(proof, reason=before))
            return found, trial
        tried.append((found, trial))
    return tried[0]


def _sides(
    request: Request, plan: Plan, planned: Callable[[object, Request], Plan], source: Source, model: Any
) -> Iterator[Trial]:
    """Yield what the plan can be tried with: one trial, or where inputs are to be guessed several."""
    if request.golden is not None:
        yield _recorded(request, plan, source, model)
        return
    origin: Any = request.source_model
    if origin is None:
        raise UsageError(
            "inputs= needs source_model=: the module that the checkpoint was saved from, with its values; or golden=, "
            "the file of a run of it"
        )
    from torchgraft.verifying.guessing import guess_inputs
    from torchgraft.verifying.request import input_pairs, wants_guessed_inputs
    from torchgraft.verifying.settling.source_names import names_in_file

    keys = names_in_file(origin, planned(origin, make_request(on_doubt="take", prefer=request.prefer)), source)
    if not wants_guessed_inputs(request.inputs, request.source_inputs):
        yield _run(origin, input_pairs(request.inputs, request.source_inputs), keys, model)
        return
    guesses = 0
    for pair in guess_inputs(origin, model, MOST_GUESSES):
        guesses += 1
        yield _run(origin, (pair,), keys, model)
    if not guesses:
        yield _run(origin, (), keys, model)


def _run(origin: Any, pairs: Sequence[tuple[Any, Any]], keys: Mapping[str, str], model: Any) -> Trial:
    """Run the source's model.

    Raises:
        UsageError: it fails on an input.
    """
    from torchgraft.verifying.settling import Trial
    from torchgraft.verifying.tracing import record_run

    runs = [record_run(origin, theirs) for theirs, _ in pairs]
    for number, run in enumerate(runs):
        if run.recording.failure:
            raise UsageError(f"source_model fails on input {number}: {run.recording.failure}")
    return Trial(
        model=model,
        inputs=[mine for _, mine in pairs],
        source_runs=runs,
        keys=keys,
        source_model=origin,
        source_inputs=[theirs for theirs, _ in pairs],
    )


def _recorded(request: Request, plan: Plan, source: Source, model: Any) -> Trial:
    """Read what record() wrote."""
    from torchgraft.verifying.settling import Trial
    from torchgraft.verifying.settling.source_names import names_from_fingerprints

    golden = read_golden(request.golden)  # type: ignore[arg-type]  # a path, as checked
    return Trial(
        model=model,
        inputs=golden.inputs_for(request.inputs),
        source_runs=golden.runs,
        keys=names_from_fingerprints(golden.weights, plan, source),
    )


def read_golden(path: str | os.PathLike[str]) -> Golden:
    """Return what record() wrote.

    Raises:
        CheckpointError: it can't be read, or is something else.
    """
    from torchgraft.verifying.golden import from_tensors

    with open_checkpoint(path) as source:
        network = source.networks[0]
        tensors = {name: source.read(network.path, name) for name in network.specs}
        return from_tensors(tensors, source.metadata, source.origin)


def _other_ways(options: Options) -> Iterator[Options]:
    """Yield options that change what values a plan computes: asked for only by name, and confirmed here by numbers."""
    if options.fuse_branches is False:
        yield replace(options, fuse_branches=True)
    if options.fold_norms is False:
        yield replace(options, fold_norms=True)


def _is_proved(plan: Plan) -> bool:
    return plan.proof is not None and plan.proof.passed


def _unproved(plan: Plan, request: Request) -> tuple[Objection, ...]:
    """Return an objection where outputs differ."""
    proof = plan.proof
    if proof is None or proof.passed or (proof.stands and proof.reason):
        return ()
    side = "source_model, inputs" if request.golden is None else "golden=..."
    remedy = f"tg.verify(model, {side}, plan=plan) says where and why; policy=tg.Policy(outputs=tg.Verdict.WARN) loads all the same"
    return (Objection("outputs", f"the model's outputs {_shortcoming(proof)}", remedy=remedy),)


def _shortcoming(proof: Proof) -> str:
    if proof.reason:
        return f"are not proved to be the source's: {proof.reason}"
    return f"differ from the source's: max rel. diff {proof.relative:.2g} (tolerance {proof.tolerance:g})"
