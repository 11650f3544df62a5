"""Whether a loaded model computes what its source does: the calls that run models, or compare how they are built."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from torchgraft.core.choices import Mode
from torchgraft.core.errors import UsageError
from torchgraft.core.places import places
from torchgraft.core.plan import Certainty, Plan
from torchgraft.core.results.report import Report
from torchgraft.core.results.verification import Hyperparameters, Verification
from torchgraft.planning import make_plan
from torchgraft.proved_planning import read_golden
from torchgraft.reading import open_checkpoint
from torchgraft.reporting import renderers
from torchgraft.request import make_request

if TYPE_CHECKING:
    from torch import nn

    from torchgraft.verifying.golden import Golden


def verify(  # noqa: PLR0913  # the two sides, their inputs, and how
    model: nn.Module,
    source_model: nn.Module | None = None,
    inputs: object = None,
    *,
    golden: str | os.PathLike[str] | None = None,
    source_inputs: object = None,
    plan: Plan | Report | None = None,
    tolerance: float | None = None,
    mode: Mode = "eval",
) -> Verification:
    """Run two models on the same inputs, and say whether they give the same; if not, where they part, and why.

    Every ATen operation of both runs is recorded with a fingerprint of its result. Both models are afterwards as they
    were: modes, hooks, buffers, gradients and random state.

    Args:
        model: the module that was loaded.
        source_model: the module that the weights came from, with its weights.
        golden: in place of the source: a file that record() wrote, with its inputs, in whatever process and version.
        inputs: a tensor, a tuple of arguments, a mapping of keywords, or a callable that gets the model, runs it in its
            own way and returns what is to be compared; a list of such for several inputs. "guess": something that
            both run on, guessed by their layers and by what their forward methods take.
        source_inputs: the same for the source, where it takes them in another way.
        plan: what load() returned, or a plan: which tensor came from which. Without it, one is made between the two.
        tolerance: greatest relative difference, max |a - b| / max |b|, that passes; else 1e-4 for float32 outputs,
            1e-9 for float64, 2e-2 for float16, 1e-1 for bfloat16.
        mode: "eval" runs both in evaluation mode, "as is" in the mode that each module is in.

    Raises:
        UsageError: an argument makes no sense, the source fails on an input, or no output can be compared.
    """
    from torchgraft.verifying.guessing import input_words
    from torchgraft.verifying.request import verify_request, wants_guessed_inputs
    from torchgraft.verifying.verify import verify_models

    if golden is not None:
        if source_model is not None or source_inputs is not None:
            raise UsageError("golden= stands in place of source_model= and source_inputs=: give one of them")
        asked = verify_request(model, read_golden(golden), inputs, plan=plan, tolerance=tolerance, mode=mode)
        return replace(verify_models(asked), renderers=renderers("verification"))
    if source_model is None:
        raise UsageError("verify needs source_model=, or golden= with what it was recorded to give")
    guessed = wants_guessed_inputs(inputs, source_inputs)
    if guessed:
        source_inputs, inputs = _guessed(source_model, model)
    asked = verify_request(
        model,
        source_model,
        inputs,
        source_inputs=source_inputs,
        tolerance=tolerance,
        mode=mode,
        plan=_in_names_of(source_model, plan) if plan else _plan_between(model, source_model),
    )
    found = replace(verify_models(replace(asked, plan_given=plan is not None)), renderers=renderers("verification"))
    return (
        replace(found, notes=(*found.notes, f"run on inputs that were guessed: {input_words(inputs)}"))
        if guessed
        else found
    )


def _guessed(source_model: nn.Module, model: nn.Module) -> tuple[object, object]:
    """Return inputs of both on which both run.

    Raises:
        UsageError: none was found.
    """
    from torchgraft.verifying.guessing import guess_inputs
    from torchgraft.verifying.request import GUESS, require_modules

    require_modules(model, source_model)
    found = next(guess_inputs(source_model, model), None)
    if found is None:
        raise UsageError(
            f"inputs={GUESS!r}: no input was found on which both models run; give inputs= and source_inputs="
        )
    return found


def record(model: nn.Module, inputs: object, path: str | os.PathLike[str], *, mode: Mode = "eval") -> Golden:
    """Run a model and write what it gave and did to `path`, so that verify() and load() with golden=path don't need the model.

    The file (.safetensors) holds the inputs, the outputs and a fingerprint of every operation and weight; nothing in it is
    code.

    Args:
        model: the source, with its weights.
        inputs: as for verify(). Callables can be recorded; verify() then needs its own.
        path: where to write.
        mode: as for verify().

    Raises:
        UsageError: an argument makes no sense, or the model fails on an input.
        WriteError: the file could not be written; what stood there is intact.
    """
    from torchgraft.verifying.golden import Golden, to_tensors, weight_fingerprints
    from torchgraft.verifying.request import input_pairs, is_eval_mode, require_modules
    from torchgraft.verifying.tracing import record_run
    from torchgraft.writing import save

    require_modules(model, model)
    given = tuple(mine for _, mine in input_pairs(inputs, None))
    runs = []
    for number, one in enumerate(given):
        run = record_run(model, one, eval_mode=is_eval_mode(mode))
        if run.recording.failure:
            raise UsageError(f"the model fails on input {number}: {run.recording.failure}")
        runs.append(run)
    golden = Golden(tuple(None if _is_code(one) else one for one in given), tuple(runs), weight_fingerprints(model))
    tensors, metadata = to_tensors(golden)
    save(path, tensors, metadata)
    return golden


def _is_code(one: object) -> bool:
    return callable(one) and not hasattr(one, "dtype")


def compare_hyperparameters(
    model: nn.Module, source_model: nn.Module, plan: Plan | Report | None = None
) -> Hyperparameters:
    """Return the settings in which matched modules of two models differ: eps, stride, padding, activation, heads ...

    Nothing is run, and both may be on the meta device. Without `plan`, one is made between the two.

    Raises:
        UsageError: an argument is no module.
    """
    from torchgraft.verifying.explaining.settings import compare_settings
    from torchgraft.verifying.request import require_modules

    require_modules(model, source_model)
    made = plan or _plan_between(model, source_model)
    found = compare_settings(model, source_model, made.plan if isinstance(made, Report) else made)

    return Hyperparameters(
        differences=found.differences, compared=len(found.pairs), renderers=renderers("hyperparameters")
    )


def _plan_between(model: nn.Module, source_model: nn.Module) -> Plan:
    """Return the best reading of how one model's tensors come from another's; nothing is refused."""
    from torchgraft.surveying import survey
    from torchgraft.verifying.request import require_modules

    require_modules(model, source_model)
    with open_checkpoint(source_model) as source:
        return make_plan(source, survey(model), make_request(on_doubt="take", source_model=source_model), model)


def _in_names_of(source_model: nn.Module, given: Plan | Report) -> Plan:
    """Return a plan with the source model's names in place of the checkpoint's, such as `conv.weight` for `module.conv.weight`.

    The names are matched as load() would, by names and shapes; keys of which that isn't certain are left as they are.
    """
    import torch

    from torchgraft.surveying import survey
    from torchgraft.verifying.request import require_modules

    require_modules(source_model, source_model)
    plan = given.plan if isinstance(given, Report) else given
    held = {place.name for place in places(source_model)}
    if all(feed.key in held for step in plan.steps for feed in step.feeds):
        return plan
    state = {
        key: torch.empty(spec.shape, dtype=getattr(torch, spec.dtype.label, torch.float32), device="meta")
        for key, spec in plan.source_specs.items()
    }
    with open_checkpoint(state) as source:
        filling = make_plan(source, survey(source_model), make_request(on_doubt="take"), source_model)
    names = {step.feeds[0].key: step.slot.name for step in filling.copied if step.certainty is Certainty.CERTAIN}
    steps = tuple(
        replace(step, feeds=tuple(replace(feed, key=names.get(feed.key, feed.key)) for feed in step.feeds))
        for step in plan.steps
    )
    return replace(plan, steps=steps)
