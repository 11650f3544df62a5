"""What training asks after a load: the old optimizer's state for what was loaded, and whether the load helped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Unpack

from torchgraft.api import load
from torchgraft.core.plan import Plan
from torchgraft.core.results.report import Report
from torchgraft.reading import open_checkpoint

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from torchgraft.arguments import Arguments
    from torchgraft.tuning import Benefit, CarriedState


def optimizer_state(
    model: nn.Module,
    optimizer: Optimizer,
    report: Report | Plan,
    checkpoint: object,
    *,
    prefer: str | None = None,
    names: Sequence[str] | None = None,
) -> CarriedState:
    """Let every parameter that load() copied unchanged go on with the state that the old optimizer had for it.

    The rest starts fresh and is named with the reason, as do parameters that were resized or filled in part. Learning
    rates and other settings stay those of `optimizer`. All or nothing. Where the model is spread over processes, each of
    them calls this, and its state gets what it holds of each tensor.

    Args:
        model: the model that was loaded.
        optimizer: a new optimizer of the same kind as the old one, over parameters of `model`.
        report: what load() returned.
        checkpoint: what holds the old optimizer's state_dict(), as for load(); mostly the same file.
        prefer: which of several optimizers in it: a container path, or a segment of one.
        names: the old optimizer's parameters, group after group, where neither names in the file nor the order of
            parameters tells.

    Raises:
        UsageError: the state can't be told apart, or belongs to other parameters or another kind of optimizer.
        CheckpointError: the file can't be read.
    """
    from torchgraft.spreading.share import spread_like
    from torchgraft.tuning import carry_state

    with open_checkpoint(checkpoint) as source:
        return carry_state(model, optimizer, report, source, prefer=prefer, names=names, spread_like=spread_like)


def measure_benefit(
    build: Callable[[], nn.Module],
    checkpoint: object,
    train: Callable[[nn.Module, Report | None], float],
    *,
    seeds: Sequence[int] = tuple(range(5)),
    **arguments: Unpack[Arguments],
) -> Benefit:
    """Return whether loading `checkpoint` helps: the score after training with it, without it, and with its values shuffled.

    Args:
        build: returns a new model, its initial values drawn from torch's random state.
        checkpoint: as for load().
        train: trains the model it is given and returns its score on data that it was not trained on; higher is better.
            It gets the report of the load, too, for freezing and groups: None for the model from scratch.
        seeds: one run of each kind for each seed; 3 at least. All random draws of a run follow from its seed.
        **arguments: as for load().

    Raises:
        UsageError: too few seeds, a score that is no finite number, or an argument that makes no sense.
        CheckpointError, PlanRefusedError: as for load().
    """
    from torchgraft.tuning import compare_starts

    return compare_starts(build, lambda model: load(model, checkpoint, **arguments), train, seeds)
