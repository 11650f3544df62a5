"""What proves each tensor that was placed: outputs of the whole, values inside of both models, modules on their own, values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

from torchgraft.core.formatting import listed
from torchgraft.core.places import places
from torchgraft.core.plan import Feed, Step
from torchgraft.core.proof import Means, Part
from torchgraft.core.types import Module, Tensor
from torchgraft.verifying.proving.agreements import (
    Agreement,
    Call,
    RunPair,
    Tolerance,
    find_agreements,
    find_row_agreements,
    moved_rows,
)
from torchgraft.verifying.proving.by_outputs import proved_by_outputs, weights_with_matched_results
from torchgraft.verifying.proving.by_value import CLOSE, has_sure_origin, relative_difference
from torchgraft.verifying.proving.module_pairs import Called, StandalonePair, find_module_pairs, inputs_for_pair
from torchgraft.verifying.tracing import Run
from torchgraft.verifying.tracing.capture import repeats_along_an_axis, without_order

# At most so many modules are run on their own.
MOST_STANDALONE_RUNS = 512


class _Location(NamedTuple):
    """Paths of the modules that are compared, in the target and in the source; empty for the whole."""

    module: str = ""
    source_module: str = ""

    @property
    def prefix(self) -> str:
        """What the names of the target's tensors in it begin with."""
        return f"{self.module}." if self.module else ""


_WHOLE = _Location()


@dataclass(slots=True, kw_only=True)
class ProofByParts:
    """A target that is filled by steps, and the source's model, to be compared part by part.

    `source_model` is None where only runs of the source were recorded. `keys` maps names of the source's model to keys of
    the checkpoint, `shapes` has those of its tensors, and `read` gives them. `deviating` are tensors that hold something
    else than their steps say: whatever agrees, they are not proved. `unordered` are those whose entries might stand in another
    order for all that the inputs show. `parts` grow as more is proved; `unproved` are the
    tensors that were placed and are in none.
    """

    model: Module
    source_model: Module | None
    steps: Mapping[str, Step]
    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[Feed], Tensor]
    tolerance: Tolerance
    deviating: frozenset[str] = frozenset()
    unordered: set[str] = field(default_factory=set)
    parts: list[Part] = field(default_factory=list)
    unproved: set[str] = field(default_factory=set)
    _completed_modules: set[str] = field(default_factory=set)
    _used_slots: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.unproved = {name for name, step in self.steps.items() if step.feeds and step.slot.persistent}

    @property
    def order_note(self) -> str:
        """A note on inputs that don't show the order of entries; empty where they do."""
        if not self.unordered:
            return ""
        names = listed(sorted(self.unordered), 3)
        return (
            f"inputs that are the same along an axis don't show in what order the entries of {names} stand: give others, "
            "such as torch.randn"
        )

    def prove(
        self,
        input_pairs: Sequence[tuple[Any, Any]],
        runs: Sequence[tuple[Run, Run | None]],
        *,
        outputs_agree: bool,
    ) -> None:
        """Prove as much as can be by each means, the strongest first.

        `input_pairs` are (of the source, of the target), `runs` (of the source, of the target) on the first of them; a
        target's run that is None is made here. Outputs prove something where those of all runs agree.
        """
        pairs = [self._pair(*inputs, *both) for inputs, both in zip(input_pairs, runs, strict=False)]
        for pair in pairs:
            self._note_used(pair)
        self.unordered = self._without_order(pairs)
        for pair in pairs if outputs_agree else ():
            self._add([proved_by_outputs(pair, self._wanted(_WHOLE))], _WHOLE, Means.OUTPUTS)
        for pair in pairs:
            if self._unproved_weights() & self._used_slots:
                self._prove_inside(pair, _WHOLE, Means.PLACE)
        self._prove_standalone([source for source, _ in input_pairs])
        self._prove_by_value()

    def _pair(self, source_input: Any, target_input: Any, source_run: Run, target_run: Run | None) -> RunPair:
        source = None if self.source_model is None else Call(self.source_model, source_input)
        return RunPair.make(source, Call(self.model, target_input), source_run, target_run, self.tolerance)

    def _without_order(self, pairs: Sequence[RunPair]) -> set[str]:
        """Return the slots whose entries could stand in another order along some axis without these inputs showing it."""
        if not all(repeats_along_an_axis(pair.target.given) for pair in pairs):
            return set()
        names, wanted = self._slot_names(), self._wanted(_WHOLE)
        found = [
            without_order(pair.target.module, pair.target.given, wanted, list(pair.target_run.outputs))
            for pair in pairs
        ]
        return {names[name] for name in frozenset.intersection(*found)} if found else set()

    def _note_used(self, runs: RunPair, at: _Location = _WHOLE) -> None:
        """Remember which tensors the target's run made use of."""
        names = self._slot_names()
        used = {at.prefix + weight for value in runs.target_run.recording.values for weight in value.weights}
        self._used_slots |= {names[name] for name in used if name in names}
        if not runs.target_run.recording.failure:
            self._completed_modules.add(at.module)

    def _prove_inside(self, runs: RunPair, at: _Location, means: Means) -> None:
        """Compare what two runs give on the way, and rows of tables of another length."""
        self._add(find_agreements(runs, self._wanted(at) & weights_with_matched_results(runs.matches)), at, means)
        names = self._slot_names()
        moved = {w: moved_rows(self.steps[names[at.prefix + w]], self.shapes) for w in self._wanted(at)}
        self._add(find_row_agreements(runs, {w: rows for w, rows in moved.items() if rows is not None}), at, means)

    def _prove_standalone(self, source_inputs: Sequence[Any]) -> None:
        """Run pairs of modules on their own, the largest first, until every slot of weights is proved or none is left."""
        source_model, left = self.source_model, self._unproved_weights()
        if source_model is None or not left:
            return
        pairs = find_module_pairs(self.model, source_model, {n: self.steps[n] for n in left}, self.keys)
        called = Called(source_model, source_inputs, (_submodule(source_model, pair.source_module) for pair in pairs))
        count = 0
        for pair in pairs:
            left = self._unproved_weights()
            if count == MOST_STANDALONE_RUNS or not left:
                return
            if not left.isdisjoint(pair.slots):
                self._run_standalone(source_model, pair, called)
                count += 1

    def _run_standalone(self, source_model: Module, pair: StandalonePair, called: Called) -> None:
        target, source = _submodule(self.model, pair.module), _submodule(source_model, pair.source_module)
        at = _Location(pair.module, pair.source_module)
        for source_input, target_input in inputs_for_pair(called, source, target):
            before = len(self.unproved)
            runs = RunPair.run(Call(source, source_input), Call(target, target_input), self.tolerance)
            self._note_used(runs, at)
            self._add([proved_by_outputs(runs, self._wanted(at))], at, Means.APART)
            self._prove_inside(runs, at, Means.APART)
            if len(self.unproved) < before:
                return

    def _prove_by_value(self) -> None:
        """Compare tensors that no run shows with what the plan says, where it is sure of where they come from."""
        held = {place.name: place.tensor for place in places(self.model)}
        proved = frozenset(self.steps) - self.unproved
        found: dict[Means, dict[str, float]] = {Means.IDLE: {}, Means.VALUE: {}}
        for name in sorted((self.unproved & held.keys()) - self.deviating):
            step = self.steps[name]
            if not (has_sure_origin(step, self.steps, proved) and all(feed.key in self.shapes for feed in step.feeds)):
                continue
            relative = relative_difference(step, held[name], self.read)
            if relative is not None and relative <= CLOSE:
                found[Means.IDLE if self._is_idle(step) else Means.VALUE][name] = relative
        for means, slots in found.items():
            if slots:
                self.unproved.difference_update(slots)
                worst = max(slots.values())
                self.parts.append(Part(module="", source_module="", slots=tuple(slots), relative=worst, means=means))

    def _is_idle(self, step: Step) -> bool:
        """Whether a module that the slot is in ran to its end, and no run used it."""
        ran = any(
            not path or name.startswith(f"{path}.") for name in step.slot.names for path in self._completed_modules
        )
        return ran and step.slot.name not in self._used_slots

    def _unproved_weights(self) -> set[str]:
        """Return the unproved tensors of real numbers: counters and indices are no part of what a module computes."""
        left = self.unproved - self.deviating - self.unordered
        return {name for name in left if self.steps[name].slot.spec.dtype.is_float}

    def _slot_names(self) -> dict[str, str]:
        return {alias: name for name, step in self.steps.items() for alias in step.slot.names}

    def _wanted(self, at: _Location) -> frozenset[str]:
        """Return the names of unproved weights in a module, as the module calls them."""
        left, prefix = self._unproved_weights(), at.prefix
        names = (alias for alias, name in self._slot_names().items() if name in left and alias.startswith(prefix))
        return frozenset(alias.removeprefix(prefix) for alias in names)

    def _add(self, found: Iterable[Agreement | None], at: _Location, means: Means) -> None:
        names = self._slot_names()
        for one in found:
            if one is None:
                continue
            slots = {names[at.prefix + weight] for weight in one.weights} & self.unproved
            self.unproved -= slots
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
