"""A run of the target in which every weight is chosen, just before it is used, by what the source does there.

The value that goes into an operation is found in the source's run; the operations of the same kind that the source
applies to it have the weights that can be meant; the right ones give a result that the source has, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

import torch

from torchgraft.core.grounds import Ground
from torchgraft.core.plan import Certainty, Feed, Op, Step, Why
from torchgraft.core.results.recording import Operation, Recording, family
from torchgraft.ops import Permute, Reshape, Transpose
from torchgraft.verifying.divergence import FingerprintIndex
from torchgraft.verifying.settling.trial import TemporaryWeights
from torchgraft.verifying.tracing import Call, Recorder, fingerprint
from torchgraft.verifying.tracing.recorder import ModuleTracker

# Uses of a value are compared up to so many operations behind it.
MOST_STEPS = 6
# Uses must be this much more alike than those of the present reading before another is preferred to it.
MARGIN = 0.05
# Results may differ by so many times the rounding of one operation.
ROUNDING_STEPS = 30
_COMMUTING = frozenset({"add", "mul"})
# Operations that pass a value on, more or less: they say nothing about which value it is.
_PASSING = frozenset({"pick", "join", "expand", "repeat", "clone"})
# Kinds of operations by which libraries implement the same layer.
_INTERCHANGEABLE = frozenset({"matrix product", "convolution"})
# The place of an argument, the same for attention as one kernel and as products.
_PLACES = {"query": "0", "self": "0", "key": "1", "mat2": "1"}

# How often a value is used, by distance in operations, kind of operation, and place among its arguments.
UseCounts = Counter[tuple[int, str, str]]


class ValueUses:
    """Looks up how values of one recording are used."""

    def __init__(self, recording: Recording) -> None:
        self._operations = recording.operations
        self._users = recording.users()

    def of_result(self, operation: int) -> UseCounts | None:
        """Return how the first result of an operation is used, None where there is none."""
        outputs = self._operations[operation].outputs if operation < len(self._operations) else ()
        return self.of(outputs[0]) if outputs else None

    def of(self, value: int) -> UseCounts:
        """Return the operations that use a value, and those that use their results, and so on."""
        found: UseCounts = Counter()
        front, seen = {value}, {value}
        for distance in range(MOST_STEPS):
            following: set[int] = set()
            for number in front:
                for op in (self._operations[user] for user in self._users.get(number, ())):
                    kind = family(op.name)
                    if kind not in _PASSING:
                        found.update((distance, kind, place) for place in _places(op, number))
                    following.update(op.outputs if kind == "pick" else op.outputs[:1])
            front = following - seen
            seen |= front
        return found


def _places(op: Operation, number: int) -> Iterator[str]:
    """Yield the places that a value has among the arguments of an operation; of what commutes they are one."""
    for at, value in enumerate(op.inputs):
        if value == number:
            commutes = op.name.rstrip("_") in _COMMUTING
            yield "" if commutes else _PLACES.get(op.arguments[at], str(at))


def likeness(a: UseCounts, b: UseCounts) -> float:
    """Return how alike two uses are, 0 to 1; early uses weigh more."""

    def weight(counts: UseCounts) -> float:
        return float(sum(count / 2**distance for (distance, _, _), count in counts.items()))

    whole = weight(a | b)
    return weight(a & b) / whole if whole else 1.0


class Reading(NamedTuple):
    """Weights for the slots of one operation, from one operation of the source: slot -> step."""

    operation: int
    steps: Mapping[str, Step]


@dataclass(slots=True, kw_only=True)
class Guidance:
    """What a guided run knows and what it finds out.

    `steps` are the readings by slot, changed as the run goes on; `keys` maps names of the source's model to keys of the
    checkpoint; `shapes` of the checkpoint's tensors. `settled` are slots whose operation gave the source's result.
    `choices` are, by operation of the target, all readings that fitted.
    """

    source: Recording
    source_uses: ValueUses
    target_uses: ValueUses | None
    steps: dict[str, Step]
    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    network: str
    rounding: float
    weights: TemporaryWeights
    settled: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    choices: dict[int, list[Reading]] = field(default_factory=dict)


class GuidedRecorder(Recorder):
    """The recorder of a guided run."""

    def __init__(self, tracker: ModuleTracker, names: Mapping[int, str], *, guidance: Guidance) -> None:
        super().__init__(tracker, names)
        self._guidance = guidance
        self._index = FingerprintIndex(guidance.source)
        self._used_operations: set[int] = set()
        self._users = guidance.source.users()

    def _execute(self, call: Call) -> Any:
        """Run one operation, with other weights where these give the source's result and the present ones don't."""
        slots = self._slots(call)
        out = call.run()
        if not slots or call.is_mutable:
            return out
        steps = self._guidance.steps
        result = _first_tensor(out)
        readings = list(self._readings(call, slots, result.numel() if result is not None else 0))
        if not readings:
            return out
        number = len(self._operations)
        present = next((r for r in readings if all(steps[name] is step for name, step in r.steps.items())), None)
        if present is not None and not self._gives_source_result(out, present):
            present = None
        if present is not None and (len(readings) == 1 or self._is_certain(present)):
            self._settle(number, present, [present])
            return out
        readings.sort(key=lambda r: self._rank(r, number, present))
        before = {name: steps[name] for name in slots.values()}
        for reading in readings:
            if present is not None and reading.operation == present.operation:
                self._settle(number, present, readings)
                return call.run()
            self._write(reading.steps)
            out_with = call.run()
            if self._gives_source_result(out_with, reading):
                steps.update(reading.steps)
                self._guidance.changed.update(reading.steps)
                self._settle(number, reading, readings)
                return out_with
            self._write(before)
        return out

    def _settle(self, number: int, reading: Reading, readings: list[Reading]) -> None:
        self._used_operations.add(reading.operation)
        self._guidance.settled.update(reading.steps)
        if len(readings) > 1:
            self._guidance.choices[number] = readings

    def _slots(self, call: Call) -> dict[int, str]:
        """Return the place of each weight among the tensors of an operation on activations -> its slot, if not settled."""
        values = [self._values[n] for n in call.inputs]
        if not any(value.live for value in values):
            return {}
        steps, settled = self._guidance.steps, self._guidance.settled
        weights = {at: value.weights[0] for at, value in enumerate(values) if value.op < 0 and len(value.weights) == 1}
        return {at: name for at, name in weights.items() if name in steps and name not in settled}

    def _readings(self, call: Call, slots: Mapping[int, str], numel: int) -> Iterator[Reading]:
        """Yield what the source's operations on the same value, with results of as many entries, would give to the slots."""
        source = self._guidance.source
        activations = [n for n in call.inputs if self._values[n].live]
        same = [self._source_values(n) for n in activations]
        if not same or not all(same):
            return
        for number in sorted({user for n in same[0] for user in self._users.get(n, ())}):
            other = source.operations[number]
            if not _same_kind(call.name, other.name) or prod(source.values[other.outputs[0]].shape) != numel:
                continue
            source_activations = [n for n in other.inputs if source.values[n].live]
            if len(source_activations) != len(activations):
                continue
            if all(any(n in values for values in same) for n in source_activations):
                yield from self._readings_from(number, call, slots, other)

    def _source_values(self, number: int) -> set[int]:
        """Return the source's values that are the same as one of this run."""
        found = self._values[number].fingerprint
        allowed = ROUNDING_STEPS * self._guidance.rounding
        return {n for _, n in self._index.near(found, allowed)} if found is not None else set()

    def _readings_from(self, number: int, call: Call, slots: Mapping[int, str], other: Operation) -> Iterator[Reading]:
        """Yield readings of the slots from the weights of one operation of the source, in each layout that fits."""
        values, keys = self._guidance.source.values, self._guidance.keys
        weights = [
            (other.arguments[at], values[n].weights[0])
            for at, n in enumerate(other.inputs)
            if values[n].op < 0 and len(values[n].weights) == 1 and values[n].weights[0] in keys
        ]
        by_argument = dict(weights)
        same_arguments = call.name == other.name and len(by_argument) == len(weights)
        ways: dict[str, list[Step]] = {}
        for order, (at, slot) in enumerate(slots.items()):
            name = by_argument.get(call.arguments[at]) if same_arguments else None
            name = name or self._weight_of_size([name for _, name in weights], order, slot)
            steps = self._steps(slot, keys[name]) if name is not None else []
            if not steps:
                return
            ways[slot] = steps
        for way in range(max(map(len, ways.values()))):
            yield Reading(number, {slot: steps[min(way, len(steps) - 1)] for slot, steps in ways.items()})

    def _weight_of_size(self, weights: list[str], order: int, slot: str) -> str | None:
        """Return the weight for a slot where argument names differ: the only one of its size, or that at its position."""
        guidance = self._guidance
        size = guidance.steps[slot].slot.spec.numel
        fitting = [name for name in weights if prod(guidance.shapes[guidance.keys[name]]) == size]
        if len(fitting) == 1:
            return fitting[0]
        in_place = weights[order] if order < len(weights) else None
        return in_place if in_place in fitting else None

    def _steps(self, slot: str, key: str) -> list[Step]:
        """Return the ways in which a tensor of the checkpoint can fill a slot, the present one first."""
        step, shapes = self._guidance.steps[slot], self._guidance.shapes
        wanted, shape = step.slot.spec.shape, shapes[key]
        feed = step.feeds[0] if len(step.feeds) == 1 else None
        is_present = feed is not None and feed.key == key
        layouts = _layouts(shape, wanted)
        if feed is not None:
            as_now = (*feed.ops, *step.ops)
            if is_present:
                layouts = [ops for ops in layouts if ops != as_now]
            elif shapes.get(feed.key) == shape == wanted and not step.rows and not step.base:
                layouts.insert(0, as_now)
        why = Why(Ground.NUMBERS, f"the source's run uses {key} where the model uses {slot}")
        others = [
            replace(
                step, feeds=(Feed(key, ops, self._guidance.network),), ops=(), base=False, rows=None, made=None, why=why,
                certainty=Certainty.LIKELY, alternatives=(), quiet=False,
            )
            for ops in dict.fromkeys(layouts)
        ]  # fmt: skip
        return [step, *others] if is_present else others

    def _is_certain(self, reading: Reading) -> bool:
        certain = all(step.certainty is Certainty.CERTAIN for step in reading.steps.values())
        return certain and reading.operation not in self._used_operations

    def _rank(self, reading: Reading, number: int, present: Reading | None) -> tuple[object, ...]:
        """Return the key to sort readings by: unused operations first, then those whose results are used more alike."""
        target_uses = self._guidance.target_uses.of_result(number) if self._guidance.target_uses is not None else None
        source_uses = self._guidance.source_uses.of_result(reading.operation)
        alike = likeness(source_uses, target_uses) if source_uses is not None and target_uses is not None else 0.0
        if present is not None and reading.operation == present.operation:
            alike += MARGIN
        return (reading.operation in self._used_operations, -alike, reading.operation)

    def _write(self, steps: Mapping[str, Step]) -> None:
        for step in steps.values():
            self._guidance.weights.fill(step)

    def _gives_source_result(self, out: Any, reading: Reading) -> bool:
        """Whether a result is that of the source's operation."""
        result = _first_tensor(out)
        found = fingerprint(result) if result is not None else None
        outputs = self._guidance.source.operations[reading.operation].outputs
        wanted = self._guidance.source.values[outputs[0]].fingerprint if outputs else None
        if found is None or wanted is None:
            return False
        return found.distance(wanted) <= ROUNDING_STEPS * self._guidance.rounding


def _first_tensor(out: Any) -> torch.Tensor | None:
    first = out[0] if isinstance(out, (list, tuple)) else out
    return first if isinstance(first, torch.Tensor) else None


def _layouts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[tuple[Op, ...]]:
    """Return the ops that lead from one shape to the other in each way that a weight may be stored in, the usual one first."""
    if shape == wanted:
        return [(), (Transpose(),)] if len(shape) == 2 and shape[0] == shape[1] else [()]
    if len(shape) == 2 and shape[::-1] == wanted:
        return [(Transpose(),)]
    return [(Reshape(wanted),), *_patch_layouts(shape, wanted)] if prod(shape) == prod(wanted) else []


def _patch_layouts(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[tuple[Op, ...]]:
    """Return layouts in which a convolution over patches is a matrix on flat patches, channels last, or the other way."""
    if len(shape) == 4 and len(wanted) == 2 and shape[0] == wanted[0]:
        return [(Permute((0, 2, 3, 1)), Reshape(wanted))]
    if len(shape) == 2 and len(wanted) == 4 and shape[0] == wanted[0]:
        out, channels, height, width = wanted
        return [(Reshape((out, height, width, channels)), Permute((0, 3, 1, 2)))]
    return []


def _same_kind(a: str, b: str) -> bool:
    kinds = {family(a), family(b)}
    return len(kinds) == 1 or kinds <= _INTERCHANGEABLE
