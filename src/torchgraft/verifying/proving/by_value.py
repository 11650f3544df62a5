"""Proof by value: a tensor that no run shows holds what the plan says, by a computation apart from that which filled it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from torchgraft.core.plan import Certainty
from torchgraft.verifying.comparing import distance
from torchgraft.verifying.proving.recomputed import recomputed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torchgraft.core.plan import Feed, Step

# Rounding of a table that was resampled in float32, relative to its greatest entry.
CLOSE = 1e-5


def difference(step: Step, held: torch.Tensor, read: Callable[[Feed], torch.Tensor]) -> float | None:
    """Return how far a slot is from what its step says, relative to the greatest entry; None if that can't be computed.

    Values are compared as the slot's type holds them; rows that the checkpoint doesn't fill are left out.
    """
    expected = recomputed(step, lambda feed: _wide(read(feed)).numpy())
    if expected is None:
        return None
    planned = torch.from_numpy(expected.copy()).to(held.dtype)
    mine = held.detach().to("cpu")
    if step.rows is not None:
        mine = mine.index_select(step.rows.dim, torch.tensor(step.rows.indices, dtype=torch.long, device="cpu"))
    if step.known is not None and step.known != step.rows:
        return None
    return distance(planned, mine)[1]


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the CPU, in a type in which numpy holds all its values."""
    own = tensor.detach().to("cpu")
    return own.double() if own.is_floating_point() else own


def is_founded(step: Step, steps: Mapping[str, Step], proved: frozenset[str]) -> bool:
    """Whether the plan knows where a tensor comes from: without doubt, or its module's other tensors are proved.

    These must all come from the very module of the source that it comes from.
    """
    if step.certainty is not Certainty.DOUBT:
        return True
    homes = {_owner(feed) for feed in step.feeds}
    beside = [
        other for name, other in steps.items() if name in proved and other.slot.owner == step.slot.owner and other.feeds
    ]
    return len(homes) == 1 and bool(beside) and {_owner(feed) for other in beside for feed in other.feeds} == homes


def _owner(feed: Feed) -> str:
    return feed.key.rpartition(".")[0]
