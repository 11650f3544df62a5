"""What proves each tensor that was placed: outputs of the whole, values inside of both models, modules on their own, values."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

from torch import nn

from torchgraft.core.places import modules, places
from torchgraft.core.plan import Feed, Step
from torchgraft.core.proof import Means, Part
from torchgraft.core.types import Module, Tensor
from torchgraft.verifying.guessing import forward_parameters, guessed_inputs
from torchgraft.verifying.proving.agreeing import Agreed, Measure, Runs, Side, agreements
from torchgraft.verifying.proving.by_value import CLOSE, difference, is_founded
from torchgraft.verifying.proving.rowwise import picked_rows, row_agreements
from torchgraft.verifying.proving.shown import at_hand, shown_by_outputs
from torchgraft.verifying.tracing.capture import arguments_of, as_call, runs

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


class Pair(NamedTuple):
    """A module of the target, one of the source, and the slots that come from it."""

    module: str
    source_module: str
    slots: tuple[str, ...]


def module_pairs(
    models: tuple[nn.Module, nn.Module], steps: Mapping[str, Step], keys: Mapping[str, str]
) -> Iterator[Pair]:
    """Yield modules of the target with the module of the source that all tensors of these steps in it come from, the largest first.

    `models` are (target, source). Modules without a forward method of their own are left out.
    """
    homes: defaultdict[str, list[str]] = defaultdict(list)
    for name, key in keys.items():
        homes[key].append(name)
    theirs = dict(modules(models[1]))
    found = []
    for path, module in modules(models[0]):
        head = f"{path}." if path else ""
        slots = tuple(n for n, s in steps.items() if any(a.startswith(head) for a in s.slot.names))
        names = [home for n in slots for feed in steps[n].feeds for home in homes.get(feed.key, ())[:1]]
        if not slots or not names or not _runs_at_all(module):
            continue
        at = next((at for at in _upwards(_common(names)) if _runs_at_all(theirs.get(at))), None)
        if at is not None and (path or at):
            found.append(Pair(path, at, slots))
    yield from sorted(found, key=lambda pair: -len(pair.slots))


def inputs_of_pair(
    origin: nn.Module, theirs: nn.Module, mine: nn.Module, given: Sequence[Any]
) -> Iterator[tuple[Any, Any]]:
    """Yield inputs of two modules that hold the same: what the source's was called with in its run; else guesses."""
    known = False
    for one in given:
        arguments = ((one,), {}) if theirs is origin else arguments_of(origin, one, theirs)
        if arguments is None:
            continue
        source = one if theirs is origin else as_call(arguments)
        for form in _as_taken(mine, source, arguments):
            if runs(mine, form):
                known = True
                yield source, form
    if not known:
        yield from guessed_inputs(theirs, mine)


def _as_taken(module: nn.Module, same: Any, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Iterator[Any]:
    """Yield ways in which a module may take the arguments of another."""
    yield same
    args, kwargs = arguments
    known = forward_parameters(module)
    both = {name: value for name, value in kwargs.items() if name in known}
    if both != kwargs:
        yield as_call((args, both))
    main = next((one for one in (*args, *kwargs.values()) if hasattr(one, "dtype")), None)
    if main is not None:
        yield as_call(((main,), {}))


def _runs_at_all(module: nn.Module | None) -> bool:
    """Whether a module has a forward method of its own: lists and dictionaries of modules have none."""
    if module is None or getattr(type(module), "forward", None) is nn.Module.forward:
        return False
    return hasattr(module, "forward")  # a list that torch.jit.load() returned has none


def _common(names: Sequence[str]) -> str:
    """Return the dotted path of the innermost module that holds all these tensors."""
    split = [name.split(".")[:-1] for name in names]
    common = []
    for segments in zip(*split, strict=False):
        if len(set(segments)) > 1:
            break
        common.append(segments[0])
    return ".".join(common)


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and those of the modules around it."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""
