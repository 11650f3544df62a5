"""Plans that are tried before they are told: both models are run, and numbers settle what names leave open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from torchgraft.adapting import Wishes, decided, object_to
from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Objection
from torchgraft.reading import open_checkpoint
from torchgraft.request import request

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torchgraft.adapting import Options
    from torchgraft.core.plan import Plan
    from torchgraft.core.specs import Source
    from torchgraft.request import Request
    from torchgraft.verifying.golden import Golden
    from torchgraft.verifying.tracing import Run


def settled(source: Source, asked: Request, model: object, planned: Callable[[object, Request], Plan]) -> Plan:
    """Return the plan for `model`, settled by runs on the inputs of the request; nothing is left changed.

    `planned` makes a plan for a model and a request.

    Raises:
        UsageError: there is no source model, a model can't be run, or the source's holds other values than the file.
        CheckpointError: what was recorded can't be read.
    """
    from torchgraft.verifying.settling import Trial, settle

    if not hasattr(model, "named_parameters"):
        given = "golden=" if asked.golden is not None else "inputs="
        raise UsageError(f"{given} needs a model that can be run: give an nn.Module")
    taking = replace(asked, on_doubt="take", accept="likely")
    best = planned(model, taking)
    side = _recorded(asked, best, source) if asked.golden is not None else _run(asked, planned, source)
    trial = Trial(model=model, inputs=side.inputs, sources=side.runs, keys=side.keys)  # type: ignore[arg-type]  # a module, as checked
    found = settle(best, source, trial)
    if not _is_proved(found):
        for options in _other_ways(asked.options):
            try:
                other = planned(model, replace(taking, options=options))
            except UsageError:  # the file has nothing of the kind
                continue
            tried = settle(other, source, trial)
            if _is_proved(tried):
                best, found = other, tried
                break
    rules = asked.rules
    wishes = Wishes(is_fresh=rules.is_fresh, is_zero=rules.is_zero, on_doubt=asked.on_doubt, accept=asked.accept)
    made = decided(found, wishes)
    usual = object_to(best)
    kept = tuple(o for o in best.objections if o not in usual)
    notes = (*made.notes, *([made.proof.words()] if made.proof else []))
    return replace(made, objections=(*kept, *_unproved(made, asked), *made.objections), notes=notes)


class _Side(NamedTuple):
    """What is known of the source: inputs for the model, the source's runs on the same, and its names in the file."""

    inputs: Sequence[Any]
    runs: Sequence[Run]
    keys: Mapping[str, str]


def _run(asked: Request, planned: Callable[[object, Request], Plan], source: Source) -> _Side:
    """Run the source's model."""
    from torchgraft.verifying.questions import input_pairs
    from torchgraft.verifying.settling.naming import names_in_file
    from torchgraft.verifying.tracing import record_run

    origin: Any = asked.source_model
    if origin is None:
        raise UsageError(
            "inputs= needs source_model=: the module that the checkpoint was saved from, with its values; or golden=, "
            "the file of a run of it"
        )
    keys = names_in_file(origin, planned(origin, request(on_doubt="take", prefer=asked.prefer)), source)
    pairs = input_pairs(asked.inputs, asked.source_inputs)
    runs = [record_run(origin, theirs) for theirs, _ in pairs]
    for number, run in enumerate(runs):
        if run.recording.failure:
            raise UsageError(f"source_model fails on input {number}: {run.recording.failure}")
    return _Side([mine for _, mine in pairs], runs, keys)


def _recorded(asked: Request, plan: Plan, source: Source) -> _Side:
    """Read what record() wrote."""
    from torchgraft.verifying.golden import inputs_of
    from torchgraft.verifying.settling.naming import names_recorded

    golden = read_golden(asked.golden)  # type: ignore[arg-type]  # a path, as checked
    return _Side(inputs_of(golden, asked.inputs), golden.runs, names_recorded(golden.weights, plan, source))


def read_golden(path: str | os.PathLike[str]) -> Golden:
    """Return what record() wrote.

    Raises:
        CheckpointError: it can't be read, or is something else.
    """
    from torchgraft.verifying.golden import unpacked

    with open_checkpoint(path) as source:
        network = source.networks[0]
        tensors = {name: source.read(network.path, name) for name in network.specs}
        return unpacked(tensors, source.metadata, source.origin)


def _other_ways(options: Options) -> Iterator[Options]:
    """Yield options that change what values a plan computes: asked for only by name, and confirmed here by numbers."""
    if not options.fuse_branches:
        yield replace(options, fuse_branches=True)
    if not options.fold_norms:
        yield replace(options, fold_norms=True)


def _is_proved(plan: Plan) -> bool:
    return plan.proof is not None and plan.proof.passed


def _unproved(plan: Plan, asked: Request) -> tuple[Objection, ...]:
    """Return an objection where outputs differ."""
    proof = plan.proof
    if proof is None or proof.passed:
        return ()
    side = "source_model, inputs" if asked.golden is None else "golden=..."
    text = (
        f"the model's outputs differ from the source's: max rel. diff {proof.relative:.2g} (tolerance "
        f"{proof.tolerance:g}); tg.verify(model, {side}, plan=plan) says where and why; policy="
        "Policy(outputs=Verdict.WARN) loads all the same"
    )
    return (Objection("outputs", text),)
