"""Plans that are tried before they are told: both models are run, and numbers settle what names leave open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torchgraft.adapting import Wishes, decided, object_to
from torchgraft.core.errors import UsageError
from torchgraft.core.plan import Objection
from torchgraft.request import request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torchgraft.adapting import Options
    from torchgraft.core.plan import Plan
    from torchgraft.core.specs import Source
    from torchgraft.request import Request


def settled(source: Source, asked: Request, model: object, planned: Callable[[object, Request], Plan]) -> Plan:
    """Return the plan for `model`, settled by runs on the inputs of the request; nothing is left changed.

    `planned` makes a plan for a model and a request.

    Raises:
        UsageError: there is no source model, a model can't be run, or the source's holds other values than the file.
    """
    from torchgraft.verifying.questions import input_pairs
    from torchgraft.verifying.settling import Trial, names_in_file, settle

    origin = asked.source_model
    if origin is None:
        raise UsageError("inputs= needs source_model=: the module that the checkpoint was saved from, with its values")
    if not hasattr(model, "named_parameters"):
        raise UsageError("inputs= needs a model that can be run: give an nn.Module")
    taking = replace(asked, on_doubt="take", accept="likely")
    keys = names_in_file(origin, planned(origin, request(on_doubt="take", prefer=asked.prefer)), source)  # type: ignore[arg-type]  # checked by the request
    trial = Trial(
        model=model, source_model=origin, pairs=input_pairs(asked.inputs, asked.source_inputs), keys=keys,  # type: ignore[arg-type]  # modules, as checked
    )  # fmt: skip
    best = planned(model, taking)
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
    return replace(made, objections=(*kept, *_unproved(made), *made.objections), notes=notes)


def _other_ways(options: Options) -> Iterator[Options]:
    """Yield options that change what values a plan computes: asked for only by name, and confirmed here by numbers."""
    if not options.fuse_branches:
        yield replace(options, fuse_branches=True)
    if not options.fold_norms:
        yield replace(options, fold_norms=True)


def _is_proved(plan: Plan) -> bool:
    return plan.proof is not None and plan.proof.passed


def _unproved(plan: Plan) -> tuple[Objection, ...]:
    """Return an objection where outputs differ."""
    proof = plan.proof
    if proof is None or proof.passed:
        return ()
    text = (
        f"the model's outputs differ from the source's: max rel. diff {proof.relative:.2g} (tolerance "
        f"{proof.tolerance:g}); tg.verify(model, source_model, inputs, plan=plan) says where and why; policy="
        "Policy(outputs=Verdict.WARN) loads all the same"
    )
    return (Objection("outputs", text),)
