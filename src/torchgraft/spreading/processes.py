"""Loading into a model, whether this process holds all of it or several hold it together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import xor
from typing import Any, TypeVar

from torchgraft.core.places import Walk, spread_among
from torchgraft.core.plan import Plan
from torchgraft.core.specs import Record, Source, Target
from torchgraft.core.system.checksums import Partial
from torchgraft.core.system.processes import group_of, ranks_of
from torchgraft.core.system.shield import Shield
from torchgraft.core.types import Module
from torchgraft.spreading.collective import Collective
from torchgraft.spreading.sampling import values_digest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Share:
    """What is to be done: to a whole model, or to what one process holds of it."""

    target: Target
    plan: Plan
    source: Source


@dataclass(frozen=True, slots=True)
class Asked:
    """What a plan is asked for: the model, the checkpoint, and a text of all arguments, made where it is needed."""

    target: Target
    source: Source
    words: Callable[[], str]


class OneProcess:
    """This process holds the model alone. The calls of `ManyProcesses` are collective, and fail in all or none."""

    def in_all(self, work: Callable[[], T]) -> T:
        """Return what `work` gives in this process, once it has given something in all.

        Raises:
            Exception: what `work` raised here; ApplyError where it raised in another process.
        """
        return work()

    def plan_once(self, work: Callable[[], Plan], asked: Asked) -> Plan:
        """Return the plan that `work` makes in the first process.

        Raises:
            UsageError: another process sees another model or another checkpoint, or is given other arguments.
            TorchgraftError: what `work` raised, of the same kind in all processes.
        """
        del asked
        return work()

    def fill(self, fill: Callable[..., T], model: Module, whole: Share) -> T:
        """Return what `fill` gives on what this process has to do; where one process fails, all put their share back.

        Raises:
            Exception: what `fill` raised here; ApplyError where it raised in another process, ModelLostError where old
                values were not kept.
        """
        del model
        return fill(whole.target, whole.plan, whole.source)


class ManyProcesses(OneProcess):
    """Several processes hold the model: one plans, each fills what it holds, and all do or none does."""

    def __init__(self, group: Collective) -> None:
        self._group = group

    def in_all(self, work: Callable[[], T]) -> T:
        """Return what `work` gives, once it has given something in all."""
        return self._group.in_all(work)

    def plan_once(self, work: Callable[[], Plan], asked: Asked) -> Plan:
        """Return the plan that `work` makes in the first process, once all are known to see and to be asked for the same."""
        self._group.expect_same(_digest([asked.words()]), "other arguments")
        self._group.expect_same(_digest(asked.target.slots), "another model")
        self._group.expect_same(_digest(network.specs for network in asked.source.networks), "another checkpoint")
        values = self._group.in_all(lambda: values_digest(asked.source))
        self._group.expect_same(values, "a checkpoint with other values")
        made = self._group.in_first(work)
        return replace(made, notes=(*made.notes, f"the model is spread over processes: {self._group.size} of them"))

    def fill(self, fill: Callable[..., T], model: Module, whole: Share) -> T:
        """Return what `fill` gives on this process's share."""
        from torchgraft.spreading.share import share

        try:
            mine = share(self._group, model, whole)
            with self._group.shield.opened():  # fill() has one of its own
                return fill(mine.target, mine.plan, mine.source, peers=Peers(self._group, whole.source))
        except BaseException as error:
            self._group.vote(error)
            raise


@dataclass(frozen=True, slots=True)
class Peers:
    """The other processes, as the one that fills its share sees them."""

    group: Collective
    source: Source

    def ready(self) -> None:
        """Return when all processes have read their parts, and these agree with the checksums of the whole.

        Raises:
            ApplyError: another one failed.
            CheckpointError: a checksum is wrong.
        """
        self.group.vote()
        _compare_checksums(self.group, self.source)

    def done(self) -> None:
        """Return when all processes have compared what they wrote.

        Raises:
            ApplyError: another one failed.
        """
        self.group.vote(last=True)


def _compare_checksums(group: Collective, source: Source) -> None:
    """Compare the checksums of records that no process read to its end. Collective; each record is one process's task.

    Where the parts that were read don't make up the whole, that process reads it, unless it is large, as in a load by one
    process.

    Raises:
        CheckpointError: a checksum is wrong; ApplyError in the processes that did not find out.
    """
    records = group.in_all(source.unchecked)
    told = group.all_gather(group.in_all(lambda: _partials(records)))
    places = sorted({place for parts in told for place in parts})

    def compare() -> None:
        for number, place in enumerate(places):
            holders = [rank for rank, parts in enumerate(told) if place in parts]
            if holders[number % len(holders)] == group.rank:
                _compare(records[place], [told[rank][place] for rank in holders])

    group.in_all(compare)


def _partials(records: Mapping[tuple[int, int], Record]) -> dict[tuple[int, int], Partial]:
    found = {place: record.partial for place, record in records.items()}
    return {place: part for place, part in found.items() if part}


def _compare(record: Record, parts: Sequence[Partial]) -> None:
    """Compare the checksum of one record. Replicas read the same ranges, which count once.

    Ranges that overlap, and make up for it by gaps, don't give the checksum: what decides is the record itself then.
    """
    distinct = {part.ranges: part for part in parts}.values()
    if sum(part.covered for part in distinct) != parts[0].size:
        record.check()
    elif not record.agrees(reduce(xor, (part.crc for part in distinct))):
        record.check(limit=parts[0].size)


def own_share(model: Walk, whole: Share) -> tuple[Share, int]:
    """Return what this process will have to do, and the bytes that it takes to make tensors whole for all.

    Raises:
        UsageError: a tensor is spread in a way that is not boxes.
    """
    if not spread_among([place.tensor for place in model.places]):
        return whole, 0
    from torchgraft.spreading.share import share_here

    return share_here(model, whole)


@contextmanager
def processes_of(model: Walk | None) -> Iterator[OneProcess]:
    """Give those who hold `model`. Collective where these are several.

    Raises:
        UsageError: parts of the model are held by different sets of processes.
    """
    spread = spread_among(model.tensors) if model is not None else []
    if not spread:
        yield OneProcess()
        return
    from torchgraft.spreading.collective import Collective

    with Shield() as shield, group_of(spread, ranks_of(spread)) as group:
        yield ManyProcesses(Collective(group, shield))


def _digest(facts: Any) -> str:
    """Return a short text that differs where facts do."""
    found = hashlib.sha256()
    for fact in facts:
        found.update(repr(fact).encode())
    return found.hexdigest()
