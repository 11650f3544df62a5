"""Whether a loaded model computes what its source does: the calls that run models, or compare how they are built."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torchgraft import reporting
from torchgraft.api import make_plan
from torchgraft.core.report import Report
from torchgraft.core.shown import Renderers
from torchgraft.core.verification import Hyperparameters
from torchgraft.reading import open_checkpoint

if TYPE_CHECKING:
    from torch import nn

    from torchgraft.core.plan import Plan
    from torchgraft.core.verification import Verification

_VERIFICATION = Renderers(reporting.verification_text, reporting.verification_to_dict)


def verify(  # noqa: PLR0913  # the two sides, their inputs, and how
    model: nn.Module,
    source_model: nn.Module,
    inputs: object,
    *,
    source_inputs: object = None,
    plan: Plan | Report | None = None,
    tolerance: float | None = None,
    mode: str = "eval",
) -> Verification:
    """Run two models on the same inputs, and say whether they give the same; if not, where they part, and why.

    Every ATen operation of both runs is recorded with a fingerprint of its result. Both models are afterwards as they
    were: modes, hooks, buffers, gradients and random state.

    Args:
        model: the module that was loaded.
        source_model: the module that the weights came from, with its weights.
        inputs: a tensor, a tuple of arguments, a mapping of keywords, or a callable that gets the model, runs it in its
            own way and returns what is to be compared; a list of such for several inputs.
        source_inputs: the same for the source, where it takes them in another way.
        plan: what load() returned, or a plan: which tensor came from which. Without it, one is made between the two.
        tolerance: greatest relative difference, max |a - b| / max |b|, that passes; else 1e-4 for float32 outputs,
            1e-9 for float64, 2e-2 for float16, 1e-1 for bfloat16.
        mode: "eval" runs both in evaluation mode, "as is" in the mode that each module is in.

    Raises:
        UsageError: an argument makes no sense, the source fails on an input, or no output can be compared.
    """
    from torchgraft.verifying.models import verify_models
    from torchgraft.verifying.questions import question

    asked = question(
        model, source_model, inputs, source_inputs=source_inputs, tolerance=tolerance, mode=mode,
        plan=plan or _plan_between(model, source_model),
    )  # fmt: skip
    return replace(verify_models(replace(asked, stated=plan is not None)), renderers=_VERIFICATION)


def compare_hyperparameters(
    model: nn.Module, source_model: nn.Module, plan: Plan | Report | None = None
) -> Hyperparameters:
    """Return the settings in which matched modules of two models differ: eps, stride, padding, activation, heads ...

    Nothing is run, and both may be on the meta device. Without `plan`, one is made between the two.

    Raises:
        UsageError: an argument is no module.
    """
    from torchgraft.verifying.questions import checked_models
    from torchgraft.verifying.settings import compare_settings

    checked_models(model, source_model)
    made = plan or _plan_between(model, source_model)
    found, pairs = compare_settings(model, source_model, made.plan if isinstance(made, Report) else made)
    shown = Renderers(reporting.hyperparameters_text, reporting.hyperparameters_to_dict)
    return Hyperparameters(differences=found, compared=len(pairs), renderers=shown)


def _plan_between(model: nn.Module, source_model: nn.Module) -> Plan:
    """Return the best reading of how one model's tensors come from another's; nothing is refused."""
    from torchgraft.request import request
    from torchgraft.surveying import survey
    from torchgraft.verifying.questions import checked_models

    checked_models(model, source_model)
    with open_checkpoint(source_model) as source:
        return make_plan(source, survey(model), request(on_doubt="take", source_model=source_model), model)
