"""The arguments of verify(), checked and in one shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torchgraft.core.choices import Mode, expect_one_of
from torchgraft.core.errors import UsageError
from torchgraft.core.objects import a_kind
from torchgraft.core.places import is_module
from torchgraft.core.plan import Plan
from torchgraft.core.results.recording import Fingerprint
from torchgraft.core.results.report import Report
from torchgraft.core.types import Module
from torchgraft.verifying.golden import Golden
from torchgraft.verifying.tracing import Run

GUESS = "guess"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRequest:
    """What is to be verified: two models, the plan between them, and inputs for each side.

    `input_pairs` are (input of the source, input of the target). Without a source there are `recorded_runs` of it, one
    for each pair, and fingerprints of its tensors (`recorded_weights`). `tolerance` is None for that of the outputs'
    type. `eval_mode`: both run in evaluation mode, not as they are. `plan_given`: the caller vouches for the plan.
    """

    model: Module
    source: Module | None
    plan: Plan
    input_pairs: tuple[tuple[Any, Any], ...]
    recorded_runs: tuple[Run, ...] = ()
    recorded_weights: Mapping[str, Fingerprint] = field(default_factory=dict)
    tolerance: float | None = None
    eval_mode: bool = True
    plan_given: bool = True


def verify_request(  # noqa: PLR0913  # the arguments of verify()
    model: Module,
    origin: Module | Golden,
    inputs: object,
    *,
    source_inputs: object = None,
    plan: Plan | Report | None,
    tolerance: float | None,
    mode: str,
) -> VerifyRequest:
    """Return the checked arguments; `origin` is the source's model, or what that was recorded to give.

    Raises:
        UsageError: an argument makes no sense.
    """
    golden = origin if isinstance(origin, Golden) else None
    source = None if isinstance(origin, Golden) else origin
    require_modules(model, source if golden is None else model)
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"tolerance={tolerance!r}: use a number of at least 0, such as 1e-4")
    if golden is None:
        pairs = input_pairs(inputs, source_inputs)
    else:
        pairs = tuple((None, one) for one in golden.inputs_for(inputs))
    return VerifyRequest(
        model=model,
        source=source,
        plan=(plan.plan if isinstance(plan, Report) else plan) or Plan(steps=()),
        input_pairs=pairs,
        recorded_runs=golden.runs if golden else (),
        recorded_weights=golden.weights if golden else {},
        tolerance=tolerance,
        eval_mode=is_eval_mode(mode),
        plan_given=golden is None,
    )


def is_eval_mode(mode: str) -> bool:
    """Return whether models run in evaluation mode.

    Raises:
        UsageError: there is no such mode.
    """
    expect_one_of(Mode, mode=mode)
    return mode == "eval"


def require_modules(model: object, source_model: object) -> None:
    """Raise UsageError unless both are modules."""
    for name, value in (("model", model), ("source_model", source_model)):
        if not is_module(value):
            raise UsageError(f"{name} is {a_kind(value)}: give an nn.Module")


def wants_guessed_inputs(inputs: object, source_inputs: object = None) -> bool:
    """Return whether inputs are to be guessed.

    Raises:
        UsageError: some are given beside, or another word stands in their place.
    """
    if not isinstance(inputs, str):
        return False
    if inputs != GUESS:
        raise UsageError(f"inputs={inputs!r:.80}: give tensors, a callable, or {GUESS!r}")
    if source_inputs is not None:
        raise UsageError(f"inputs={GUESS!r} looks for those of both sides: source_inputs= can't be given beside it")
    return True


def input_pairs(inputs: object, source_inputs: object) -> tuple[tuple[Any, Any], ...]:
    """Return (input of the source, input of the target) for each input.

    Raises:
        UsageError: no inputs, or unequally many.
    """
    target = inputs if isinstance(inputs, list) else [inputs]
    source = target if source_inputs is None else source_inputs if isinstance(source_inputs, list) else [source_inputs]
    if not target or inputs is None:
        raise UsageError("inputs is empty: give at least one input, such as a tensor of the shape that the model takes")
    if len(target) != len(source):
        raise UsageError(f"{len(target)} inputs and {len(source)} source_inputs: give as many of each")
    return tuple(zip(source, target, strict=True))
