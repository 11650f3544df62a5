"""What proves each tensor that was placed: outputs of the whole, values inside of both models, modules on their own, values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

from torchgraft.core.places import places
from torchgraft.core.plan import Feed, Step
from torchgraft.core.proof import Means, Part
from torchgraft.core.types import Module, Tensor
from torchgraft.verifying.proving.agreements import Agreed, Measure, Runs, Side, agreements, picked_rows, row_agreements
from torchgraft.verifying.proving.by_outputs import at_hand, shown_by_outputs
from torchgraft.verifying.proving.by_value import CLOSE, difference, is_founded
from torchgraft.verifying.proving.module_pairs import Pair, inputs_of_pair, module_pairs

# So many modules are run on their own at most.
MOST_PAIRS = 512


class Where(NamedTuple):
    """Paths of the modules that are compared, in the target and in the source; empty for the whole."""

    module: str = ""
    source_module: str = ""

    @property
    def head(self) -> str:
        """What the names of the target's tensors in it begin with."""
        return f"{self.module}." if self.module else ""


WHOLE = Where()


@dataclass(slots=True, kw_only=True)
class Parts:
    """A target that is filled by steps, and the source's model, to be compared part by part.

    `origin` is None where only runs of the source were recorded. `keys` maps names of the source's model to keys of the
    checkpoint, `shapes` has those of its tensors, and `read` gives them. `others` are tensors that hold something else than
    their steps say: whatever agrees, they are not proved. `parts` grow as more is proved; `left` are the tensors that were
    placed and are in none.
    """

    model: Module
    origin: Module | None
    steps: Mapping[str, Step]
    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[Feed], Tensor]
    measure: Measure
    others: frozenset[str] = frozenset()
    parts: list[Part] = field(default_factory=list)
    left: set[str] = field(default_factory=set)
    _ran: set[str] = field(default_factory=set)
    _used: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.left = {name for name, step in self.steps.items() if step.feeds and step.slot.persistent}

    def prove(self, ran: Sequence[Runs], source_given: Sequence[Any], *, passed: bool) -> None:
        """Prove as much as can be by each means, the strongest first; outputs count where all of all runs `passed`."""
        for one in ran:
            self.seen(one)
        for one in ran if passed else ():
            self.by_outputs(one)
        for one in ran:
            self.in_place(one)
        self.apart(source_given)
        self.by_value()

    def seen(self, ran: Runs, at: Where = WHOLE) -> None:
        """Remember which tensors the target's run made use of."""
        names = self._names()
        used = {at.head + weight for value in ran.mine.recording.values for weight in value.weights}
        self._used |= {names[name] for name in used if name in names}
        if not ran.mine.recording.failure:
            self._ran.add(at.module)

    def by_outputs(self, ran: Runs) -> None:
        """Find what the outputs of two runs of the wholes show."""
        shown = shown_by_outputs(ran, self._wanted(WHOLE))
        self._note([shown] if shown else [], WHOLE, Means.OUTPUTS)

    def in_place(self, ran: Runs) -> None:
        """Compare what two runs of the wholes give on the way; outputs that agree are such values, too."""
        if self._matter() & self._used:
            self._inside(ran, WHOLE, Means.PLACE)

    def apart(self, source_given: Sequence[Any]) -> None:
        """Run pairs of modules on their own, the largest first, until every slot of weights is in a part or none is left."""
        origin = self.origin
        if origin is None:
            return
        pairs = module_pairs((self.model, origin), {n: self.steps[n] for n in self._matter()}, self.keys)
        count = 0
        for pair in pairs if self._matter() else ():
            if count == MOST_PAIRS or not self._matter():
                return
            if not self._matter().isdisjoint(pair.slots):
                self._run_apart(origin, pair, source_given)
                count += 1

    def by_value(self) -> None:
        """Compare tensors that no run shows with what the plan says, where it is sure of where they come from."""
        held = {place.name: place.tensor for place in places(self.model)}
        proved = frozenset(self.steps) - self.left
        found: dict[Means, dict[str, float]] = {Means.IDLE: {}, Means.VALUE: {}}
        for name in sorted((self.left & held.keys()) - self.others):
            step = self.steps[name]
            if not (is_founded(step, self.steps, proved) and all(feed.key in self.shapes for feed in step.feeds)):
                continue
            relative = difference(step, held[name], self.read)
            if relative is not None and relative <= CLOSE:
                found[Means.IDLE if self._is_idle(step) else Means.VALUE][name] = relative
        for means, slots in found.items():
            if slots:
                self.left.difference_update(slots)
                worst = max(slots.values())
                self.parts.append(
                    Part(module="", source_module="", slots=tuple(slots), relative=worst, means=means)
                )  # fmt: skip

    def _matter(self) -> set[str]:
        """Return what is left of weights: counters and indices are no part of what a module computes."""
        return {name for name in self.left - self.others if self.steps[name].slot.spec.dtype.is_float}

    def _is_idle(self, step: Step) -> bool:
        """Whether a module that the slot is in ran to its end, and no run used it."""
        ran = any(not path or name.startswith(f"{path}.") for name in step.slot.names for path in self._ran)
        return ran and step.slot.name not in self._used

    def _run_apart(self, origin: Module, pair: Pair, source_given: Sequence[Any]) -> None:
        mine, theirs = _submodule(self.model, pair.module), _submodule(origin, pair.source_module)
        at = Where(pair.module, pair.source_module)
        for source, target in inputs_of_pair(origin, theirs, mine, source_given):
            before = len(self.left)
            ran = Runs.of(Side(theirs, source), Side(mine, target), self.measure)
            self.seen(ran, at)
            shown = shown_by_outputs(ran, self._wanted(at))
            self._note([shown] if shown else [], at, Means.APART)
            self._inside(ran, at, Means.APART)
            if len(self.left) < before:
                return

    def _inside(self, ran: Runs, at: Where, means: Means) -> None:
        """Compare what two runs give on the way, and rows of tables of another length."""
        self._note(agreements(ran, self._wanted(at) & at_hand(ran.matches)), at, means)
        names = self._names()
        rest = {weight: self.steps[names[at.head + weight]] for weight in self._wanted(at)}
        picks = {weight: picked_rows(step, self.shapes) for weight, step in rest.items()}
        self._note(row_agreements(ran, {w: pick for w, pick in picks.items() if pick is not None}), at, means)

    def _names(self) -> dict[str, str]:
        return {alias: name for name, step in self.steps.items() for alias in step.slot.names}

    def _wanted(self, at: Where) -> frozenset[str]:
        """Return the names of what is left in a module, as the module calls them."""
        left = self._matter()
        return frozenset(
            alias.removeprefix(at.head) for alias, name in self._names().items() if name in left and alias.startswith(at.head)
        )  # fmt: skip

    def _note(self, found: Iterable[Agreed], at: Where, means: Means) -> None:
        names = self._names()
        for one in found:
            slots = {names[at.head + weight] for weight in one.weights} & self.left
            self.left -= slots
            if slots:
                part = Part(
                    module=_joined(at.module, one.module),
                    source_module=_joined(at.source_module, one.source_module),
                    slots=tuple(sorted(slots)),
                    relative=one.relative,
                    means=means,
                    root=at.source_module if means is Means.APART else "",
                )
                self.parts.append(part)


def _joined(path: str, inner: str) -> str:
    return f"{path}.{inner}" if path and inner else path or inner


def _submodule(model: Module, path: str) -> Module:
    """Return the module at a path; what torch.jit.load() returned has no `get_submodule`."""
    return reduce(getattr, path.split("."), model) if path else model
