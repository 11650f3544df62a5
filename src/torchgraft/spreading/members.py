"""Loading into a model, whether this process holds all of it or several hold it together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from torchgraft.core.places import Walk, spread_among
from torchgraft.core.plan import Plan
from torchgraft.core.specs import Source, Target
from torchgraft.core.system.processes import group_of, ranks_of
from torchgraft.core.system.shield import Shield
from torchgraft.core.types import Module
from torchgraft.spreading.team import Team

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """What is to be done: to a whole model, or to what one process holds of it."""

    target: Target
    plan: Plan
    source: Source


class Members:
    """Who holds the model: this process alone. With several every call is collective, and fails in all where it does in one."""

    def together(self, work: Callable[[], T]) -> T:
        """Return what `work` gives in this process, once it has given something in all.

        Raises:
            Exception: what `work` raised here; ApplyError where it raised in another process.
        """
        return work()

    def planned(self, work: Callable[[], Plan], target: Target, source: Source) -> Plan:
        """Return the plan that `work` makes in the first process.

        Raises:
            UsageError: another process sees another model or another checkpoint.
            TorchgraftError: what `work` raised, of the same kind in all processes.
        """
        del target, source
        return work()

    def fill(self, fill: Callable[..., T], undo: str, model: Module, whole: Share) -> T:
        """Return what `fill` gives on what this process has to do; where one process fails, all put their share back.

        Raises:
            Exception: what `fill` raised here; ApplyError where it raised in another process, ModelLostError where old
                values were not kept.
        """
        del model
        return fill(whole.target, whole.plan, whole.source, undo=undo)


class Together(Members):
    """Several processes hold the model: one plans, each fills what it holds, and all do or none does."""

    def __init__(self, team: Team) -> None:
        self._team = team

    def together(self, work: Callable[[], T]) -> T:
        """Return what `work` gives, once it has given something in all."""
        return self._team.together(work)

    def planned(self, work: Callable[[], Plan], target: Target, source: Source) -> Plan:
        """Return the plan that `work` makes in the first process, once all are known to see the same."""
        self._team.alike(_digest(target.slots), "model")
        self._team.alike(_digest(network.specs for network in source.networks), "checkpoint")
        made = self._team.once(work)
        return replace(made, notes=(*made.notes, f"the model is spread over processes: {self._team.size} of them"))

    def fill(self, fill: Callable[..., T], undo: str, model: Module, whole: Share) -> T:
        """Return what `fill` gives on this process's share."""
        from torchgraft.spreading.share import share

        try:
            mine = share(self._team, model, whole)
            with self._team.shield.opened():  # fill() has one of its own
                return fill(mine.target, mine.plan, mine.source, undo=undo, peers=Voters(self._team, whole.source))
        except BaseException as error:
            self._team.vote(error)
            raise


@dataclass(frozen=True, slots=True)
class Voters:
    """The other processes, as the one that fills its share sees them."""

    team: Team
    source: Source

    def ready(self) -> None:
        """Return when all processes have read their parts, and these agree with the checksums of the whole.

        Raises:
            ApplyError: another one failed.
            CheckpointError: a checksum is wrong.
        """
        from torchgraft.spreading.parts import compare_together

        self.team.vote()
        compare_together(self.team, self.source)

    def done(self) -> None:
        """Return when all processes have compared what they wrote.

        Raises:
            ApplyError: another one failed.
        """
        self.team.vote(last=True)


def foreseen(model: Walk, whole: Share) -> tuple[Share, int]:
    """Return what this process will have to do, and bytes that it takes beside that: for tensors that one makes for all.

    Raises:
        UsageError: a tensor is spread in a way that is not boxes.
    """
    if not spread_among([place.tensor for place in model.places]):
        return whole, 0
    from torchgraft.spreading.share import share_here

    return share_here(model, whole)


@contextmanager
def team_of(model: Walk | None) -> Iterator[Members]:
    """Give those who hold `model`. Collective where these are several.

    Raises:
        UsageError: parts of the model are held by different sets of processes.
    """
    spread = spread_among(model.tensors) if model is not None else []
    if not spread:
        yield Members()
        return
    from torchgraft.spreading.team import Team

    with Shield() as shield, group_of(spread, ranks_of(spread)) as group:
        yield Together(Team(group, shield))


def _digest(facts: Any) -> str:
    """Return a short text that differs where facts do."""
    found = hashlib.sha256()
    for fact in facts:
        found.update(repr(fact).encode())
    return found.hexdigest()
