"""All or nothing: what apply() does around a load, and the errors it gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torchgraft.applying.exclusive import exclusively
from torchgraft.applying.execution import Applied, Execution, Peers
from torchgraft.applying.manner import Manner
from torchgraft.core.errors import (
    MAX_MESSAGE,
    ApplyError,
    CheckpointError,
    ModelLostError,
    PlanRefusedError,
    TorchgraftError,
    UsageError,
    printable,
)
from torchgraft.core.places import Walk, walk_of
from torchgraft.core.plan import Plan
from torchgraft.core.results.report import Check
from torchgraft.core.specs import Source, Target
from torchgraft.core.system.random_state import kept_random_states
from torchgraft.core.system.shield import Shield
from torchgraft.core.written import Written

if TYPE_CHECKING:
    from torch import nn

    # Compares what lies in the model with what it should have got; returns the checks, passed or failed.
    Verifier = Callable[[nn.Module | Walk, Plan, Written], Sequence[Check]]

AS_USUAL = Manner()


def apply(  # noqa: PLR0913  # what a load is made of
    model: nn.Module | Walk,
    target: Target,
    plan: Plan,
    source: Source,
    manner: Manner = AS_USUAL,
    *,
    verify: Verifier | None = None,
    peers: Peers | None = None,
) -> Applied:
    """Fill `model` by `plan`, or leave it exactly as it was.

    `verify` runs inside the transaction. `peers` are asked before anything is written that could not be put back, and at the
    end. Extra memory: one tensor per step that computes, and the old values that the manner's `undo` asks to keep; see `load`.

    Raises:
        UsageError: the placement contradicts itself or the model, a tensor of the model can't be written to, or another load
            fills it, or what shares its memory.
        PlanRefusedError: the plan holds objections, or the values do (NaN, overflow); all at once.
        CheckpointError: the checkpoint can't be read to its end.
        ApplyError: anything else went wrong. In all these cases the model is unchanged.
        ModelLostError: the checkpoint failed where old values were no longer kept, which `undo="keep"` excludes.
    """
    import torch

    seen = walk_of(model)
    device = manner.placement.checked(seen)
    plan.raise_if_refused()
    # In this order: a signal must not leave gradients off. What is made in inference mode could not be trained later.
    with Shield() as shield, torch.inference_mode(mode=False), torch.no_grad(), exclusively(seen.places):
        try:
            work = Execution(seen, target, plan, source, manner, device)
        except TorchgraftError:
            raise
        except Exception as error:  # no memory, say, or no such device in this machine
            raise ApplyError(f"{_describe(error)}; nothing was written yet") from error
        put_random_states_back = kept_random_states()
        try:
            notes, initialised = work.carry_out(seen, shield, peers)
            checks = tuple(verify(seen, plan, work.written)) if verify else ()
            _expect_passed(checks)
            if not work.begun:
                shield.deliver()
            if peers:
                peers.done()
        except BaseException as error:
            lost = work.roll_back()
            put_random_states_back()
            if (named := _lost_error(lost, error) if lost else _translated(error)) is not error:
                raise named from error
            raise
        work.mark_changed()
        return work.applied(checks, notes, initialised)


def expect_values(model: Walk) -> None:
    """Refuse a load where values can't be had: of fake tensors, and while torch records what is called and doesn't do it.

    Raises:
        UsageError: the model's tensors are fake, or the call comes from within such a recording.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    if isinstance(_get_current_dispatch_mode(), FakeTensorMode):
        raise UsageError("load() is called within FakeTensorMode, where tensors have no values: call it outside of it")
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        raise UsageError("load() is called while torch.jit.trace runs the model: load before it is traced")
    if any(issubclass(kind, FakeTensor) for kind in set(map(type, model.tensors))):
        raise UsageError(
            "the model's tensors are fake (FakeTensorMode), and never get values: build it outside of that mode, or on the "
            "meta device"
        )


def _expect_passed(checks: Sequence[Check]) -> None:
    failed = [check for check in checks if not check.passed]
    if failed:
        texts = "; ".join(f"{check.name}: {check.text}" for check in failed)
        raise ApplyError(f"what lies in the model is not what was to be written ({texts}); the model was put back")


def _lost_error(names: Sequence[str], error: BaseException) -> ModelLostError:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ModelLostError(
        f"{_describe(error)}; old values were not kept: {', '.join(names[:3])}{more} hold NaN now, and all else "
        "is as it was. Build the model anew; a load with undo='keep' needs as much memory again, and can always put it back"
    )


def _translated(error: BaseException) -> BaseException:
    """Return the error to raise: our own and interrupts as they are, others as ApplyError that names the slot."""
    if not isinstance(error, Exception) or isinstance(error, (CheckpointError, PlanRefusedError, ApplyError)):
        return error
    notes: Any = getattr(error, "__notes__", [])
    slot = f"{notes[0]}: " if notes else ""
    return ApplyError(f"{slot}{_describe(error)}; the model was put back as it was")


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {printable(str(error), MAX_MESSAGE)}"
