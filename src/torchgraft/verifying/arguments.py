"""What a caller wants verified, checked and in one shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torchgraft.core.errors import UsageError
from torchgraft.core.objects import a_kind
from torchgraft.core.places import is_module
from torchgraft.core.plan import Plan
from torchgraft.core.results.report import Report
from torchgraft.core.types import Module
from torchgraft.verifying.golden import Golden, inputs_of
from torchgraft.verifying.tracing import Run

MODES = ("eval", "as is")
GUESS = "guess"
EMPTY = Plan(steps=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is to be verified: two models, the plan between them, and inputs for each side.

    `pairs` are (input of the source, input of the target). Without a source, its runs are `recorded`, one for each pair.
    `tolerance` is None for that of the outputs' type. `evaluating`: whether both run in evaluation mode, or as they are.
    `stated`: the caller vouches for the plan.
    """

    model: Module
    source: Module | None
    plan: Plan
    pairs: tuple[tuple[Any, Any], ...]
    recorded: tuple[Run, ...] = ()
    tolerance: float | None = None
    evaluating: bool = True
    stated: bool = True


def question(  # noqa: PLR0913  # the arguments of verify()
    model: Module,
    origin: Module | Golden,
    inputs: object,
    *,
    source_inputs: object = None,
    plan: Plan | Report | None,
    tolerance: float | None,
    mode: str,
) -> Question:
    """Return the checked question; `origin` is the source's model, or what that was recorded to give.

    Raises:
        UsageError: an argument makes no sense.
    """
    golden = origin if isinstance(origin, Golden) else None
    source = None if isinstance(origin, Golden) else origin
    checked_models(model, source if golden is None else model)
    mine = tuple((None, one) for one in inputs_of(golden, inputs)) if golden else input_pairs(inputs, source_inputs)
    return Question(
        model=model,
        source=source,
        plan=(plan.plan if isinstance(plan, Report) else plan) or EMPTY,
        pairs=mine,
        recorded=golden.runs if golden else (),
        tolerance=_checked_tolerance(tolerance),
        evaluating=checked_mode(mode),
        stated=golden is None,
    )


def _checked_tolerance(tolerance: float | None) -> float | None:
    if tolerance is not None and not tolerance >= 0:
        raise UsageError(f"tolerance={tolerance!r}: use a number of at least 0, such as 1e-4")
    return tolerance


def checked_mode(mode: str) -> bool:
    """Return whether models run in evaluation mode.

    Raises:
        UsageError: there is no such mode.
    """
    if mode not in MODES:
        raise UsageError(f"mode={mode!r}: use one of {', '.join(map(repr, MODES))}")
    return mode == "eval"


def checked_models(model: object, source_model: object) -> None:
    """Raise UsageError unless both are modules."""
    for name, value in (("model", model), ("source_model", source_model)):
        if not is_module(value):
            raise UsageError(f"{name} is {a_kind(value)}: give an nn.Module")


def are_guessed(inputs: object, source_inputs: object = None) -> bool:
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
    mine = inputs if isinstance(inputs, list) else [inputs]
    theirs = mine if source_inputs is None else source_inputs if isinstance(source_inputs, list) else [source_inputs]
    if not mine or inputs is None:
        raise UsageError("inputs is empty: give at least one input, such as a tensor of the shape that the model takes")
    if len(mine) != len(theirs):
        raise UsageError(f"{len(mine)} inputs and {len(theirs)} source_inputs: give as many of each")
    return tuple(zip(theirs, mine, strict=True))
