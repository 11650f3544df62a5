"""A run of the target in which every weight is chosen, just before it is used, by what the source does there.

The value that goes into an operation is found in the source's run; the operations of the same kind that the source
applies to it have the weights that can be meant; the right ones give a result that the source has, too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from torchgraft.core.families import family
from torchgraft.core.plan import Certainty, Feed, Op, Step, Why
from torchgraft.core.results.recording import Operation, Recording
from torchgraft.ops import Permute, Reshape, Transpose
from torchgraft.verifying.divergence import Index
from torchgraft.verifying.settling.trial import Hands
from torchgraft.verifying.tracing import Call, Recorder, fingerprint

DEPTH = 6
_COMMUTING = frozenset({"add", "mul"})
# Operations that pass a value on, more or less: they say nothing about which value it is.
_PASSING = frozenset({"pick", "join", "expand", "repeat", "clone"})


class Uses:
    """Looks up how values of one recording are used."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._users: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, op in enumerate(recording.operations):
            for at, value in enumerate(op.inputs):
                self._users[value].append((number, at))

    def output_of(self, operation: int) -> int | None:
        """Return the first value that an operation made."""
        if operation >= len(self._recording.operations):
            return None
        return next(iter(self._recording.operations[operation].outputs), None)

    def of(self, value: int) -> Counter[tuple[int, str, str]]:
        """Return (depth, kind, place) of the operations that use a value, and of those that use their results."""
        found: Counter[tuple[int, str, str]] = Counter()
        front, seen = {value}, {value}
        for depth in range(DEPTH):
            following: set[int] = set()
            for number in front:
                for op_number, at in self._users.get(number, ()):
                    op = self._recording.operations[op_number]
                    kind = family(op.name)
                    place = "" if op.name.rstrip("_") in _COMMUTING else _place(op.arguments[at], at)
                    if kind not in _PASSING:
                        found[depth, kind, place] += 1
                    following.update(op.outputs[:1] if kind != "pick" else op.outputs)
            front = following - seen
            seen |= front
        return found


def _place(argument: str, at: int) -> str:
    """Return the place of an argument, the same for attention as one kernel and as products."""
    return {"query": "0", "self": "0", "key": "1", "mat2": "1"}.get(argument, str(at))


def likeness(a: Counter[tuple[int, str, str]], b: Counter[tuple[int, str, str]]) -> float:
    """Return how alike two uses are, 0 to 1; early uses weigh more."""

    def weight(both: Counter[tuple[int, str, str]]) -> float:
        return float(sum(count / 2 ** key[0] for key, count in both.items()))

    whole = weight(a | b)
    return weight(a & b) / whole if whole else 1.0


# Uses must be this much more alike than those of the present reading before another is preferred to it.
MARGIN = 0.05
_ALIKE = frozenset({"matrix product", "convolution"})


class Reading(NamedTuple):
    """Weights for the slots of one operation, from one operation of the source: slot -> step."""

    operation: int
    steps: Mapping[str, Step]


@dataclass(slots=True, kw_only=True)
class Guidance:
    """What a guided run knows and what it found out.

    `steps` are the readings by slot, changed as the run goes on; `keys` maps names of the source's model to keys of the
    checkpoint; `shapes` of the checkpoint's tensors. `settled` are slots whose operation gave the source's result.
    `choices` are, by operation of the target, all readings that fitted.
    """

    source: Recording
    uses: Uses
    target_uses: Uses | None
    steps: dict[str, Step]
    keys: Mapping[str, str]
    shapes: Mapping[str, tuple[int, ...]]
    network: str
    floor: float
    hands: Hands
    settled: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    choices: dict[int, list[Reading]] = field(default_factory=dict)


class Guide(Recorder):  # type: ignore[no-untyped-call]
    """The recorder of a guided run."""

    def __init__(self, whereabouts: Any, names: Mapping[int, str], *, guidance: Guidance) -> None:
        super().__init__(whereabouts, names)
        self._given = guidance
        self._index = Index(guidance.source)
        self._used: set[int] = set()
        self._users: dict[int, list[int]] = {}
        for number, op in enumerate(guidance.source.operations):
            for value in op.inputs:
                self._users.setdefault(value, []).append(number)

    def _execute(self, call: Call) -> Any:
        slots = self._slots(call)
        if not slots or call.func._schema.is_mutable:  # noqa: SLF001
            return call.run()
        out = call.run()
        first = _first(out)
        readings = list(self._readings(call, slots, first.numel() if first is not None else 0))
        if not readings:
            return out
        here = len(self._operations)
        fitting = [r for r in readings if self._is_present(r)]
        if self._gives(out, fitting[0]) if fitting else False:
            present: Reading | None = fitting[0]
        else:
            present = None
        if present is not None and (len(readings) == 1 or self._is_sure(present)):
            return self._taken(here, present, out, [present])
        ranked = sorted(readings, key=lambda r: self._rank(r, here, present))
        old = {name: self._given.steps[name] for name in slots.values() if name in self._given.steps}
        for reading in ranked:
            if present is not None and reading.operation == present.operation:
                return self._taken(here, present, call.run(), ranked)
            self._write(reading.steps)
            result = call.run()
            if self._gives(result, reading):
                for name, step in reading.steps.items():
                    self._given.steps[name] = step
                    self._given.changed.add(name)
                return self._taken(here, reading, result, ranked)
            self._write(old)
        return out

    def _taken(self, here: int, reading: Reading, out: Any, readings: list[Reading]) -> Any:
        self._used.add(reading.operation)
        for name in reading.steps:
            self._given.settled.setdefault(name, here)
        if len(readings) > 1:
            self._given.choices[here] = readings
        return out

    def _slots(self, call: Call) -> dict[int, str]:
        """Return the place of each weight among the tensors of an operation on activations -> its slot."""
        values = [self._values[n] for n in call.inputs]
        if not any(value.live for value in values):
            return {}
        return {
            at: value.weights[0]
            for at, value in enumerate(values)
            if value.op < 0 and len(value.weights) == 1 and value.weights[0] in self._given.steps
            and value.weights[0] not in self._given.settled
        }  # fmt: skip

    def _readings(self, call: Call, slots: Mapping[int, str], size: int) -> Iterator[Reading]:
        """Yield what the source's operations on the same value, with results of as many entries, would give to the slots."""
        source = self._given.source
        live = [n for n in call.inputs if self._values[n].live]
        mine = [self._matched(n) for n in live]
        if not mine or not all(mine):
            return
        users = {number for n in mine[0] for number in self._users.get(n, ())}
        for number in sorted(users):
            other = source.operations[number]
            if not _same_kind(call.name, other.name) or _size(source.values[other.outputs[0]].shape) != size:
                continue
            theirs = [n for n in other.inputs if source.values[n].live]
            if len(theirs) != len(live) or not all(any(n in group for group in mine) for n in theirs):
                continue
            yield from self._paired(number, call, slots, other)

    def _matched(self, number: int) -> set[int]:
        look = self._values[number].fingerprint
        return {n for _, n in self._index.near(look, 30 * self._given.floor)} if look is not None else set()

    def _paired(self, number: int, call: Call, slots: Mapping[int, str], other: Operation) -> Iterator[Reading]:
        """Yield readings of the slots from the weights of one operation of the source, in each layout that fits."""
        values = self._given.source.values
        weights = [
            (other.arguments[at], values[n].weights[0])
            for at, n in enumerate(other.inputs)
            if values[n].op < 0 and len(values[n].weights) == 1 and values[n].weights[0] in self._given.keys
        ]
        by_place = dict(weights)
        ways: dict[str, list[Step]] = {}
        for order, (at, slot) in enumerate(slots.items()):
            name = (
                by_place.get(call.arguments[at]) if call.name == other.name and len(by_place) == len(weights) else None
            )
            if name is None:
                name = _of_size(weights, order, self._given, slot)
            steps = self._steps(slot, self._given.keys[name]) if name is not None else []
            if not steps:
                return
            ways[slot] = steps
        for way in range(max(map(len, ways.values()))):
            yield Reading(number, {slot: steps[min(way, len(steps) - 1)] for slot, steps in ways.items()})

    def _steps(self, slot: str, key: str) -> list[Step]:
        """Return the ways in which a tensor of the checkpoint can fill a slot, the present one first."""
        step = self._given.steps[slot]
        wanted, shape = step.slot.spec.shape, self._given.shapes[key]
        present = [step] if len(step.feeds) == 1 and step.feeds[0].key == key else []
        layouts: list[tuple[Op, ...]] = []
        if shape == wanted:
            if len(step.feeds) == 1 and step.feeds[0].key in self._given.shapes and not step.rows and not step.base:
                was = self._given.shapes[step.feeds[0].key]
                layouts += [(*step.feeds[0].ops, *step.ops)] if was == shape else []
            layouts.append(())
            if len(shape) == 2 and shape[0] == shape[1]:
                layouts.append((Transpose(),))
        elif len(shape) == 2 and shape[::-1] == wanted:
            layouts.append((Transpose(),))
        elif _size(shape) == _size(wanted):
            layouts += [(Reshape(wanted),), *_patches(shape, wanted)]
        why = Why("numbers", f"the source's run uses {key} where the model uses {slot}")
        others = [
            replace(
                step, feeds=(Feed(key, ops, self._given.network),), ops=(), base=False, rows=None, made=None, why=why,
                certainty=Certainty.LIKELY, alternatives=(), quiet=False,
            )
            for ops in dict.fromkeys(layouts) if not present or ops != (*step.feeds[0].ops, *step.ops)
        ]  # fmt: skip
        return present + others

    def _is_present(self, reading: Reading) -> bool:
        return all(self._given.steps[name] is step for name, step in reading.steps.items())

    def _is_sure(self, reading: Reading) -> bool:
        return reading.operation not in self._used and all(
            step.certainty is Certainty.CERTAIN for step in reading.steps.values()
        )

    def _rank(self, reading: Reading, here: int, present: Reading | None) -> tuple[object, ...]:
        other = self._given.source.operations[reading.operation]
        alike = 0.0
        if self._given.target_uses is not None and other.outputs:
            recorded = self._target_output(here)
            if recorded is not None:
                alike = likeness(self._given.uses.of(other.outputs[0]), self._given.target_uses.of(recorded))
        mine = present is not None and reading.operation == present.operation
        return (reading.operation in self._used, -alike - (MARGIN if mine else 0), reading.operation)

    def _target_output(self, here: int) -> int | None:
        """Return the value that this operation made in the run before."""
        uses = self._given.target_uses
        return uses.output_of(here) if uses is not None else None

    def _write(self, steps: Mapping[str, Step]) -> None:
        for step in steps.values():
            self._given.hands.fill(step)

    def _gives(self, out: Any, reading: Reading) -> bool:
        """Whether a result is that of the source's operation."""
        first = _first(out)
        look = fingerprint(first) if first is not None else None
        there = self._given.source.operations[reading.operation].outputs
        wanted = self._given.source.values[there[0]].fingerprint if there else None
        return look is not None and wanted is not None and look.distance(wanted) <= 30 * self._given.floor


def _first(out: Any) -> torch.Tensor | None:
    first = out[0] if isinstance(out, (list, tuple)) else out
    return first if isinstance(first, torch.Tensor) else None


def _patches(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[tuple[Op, ...]]:
    """Return layouts in which a convolution over patches is a matrix on flat patches, channels last, or the other way."""
    if len(shape) == 4 and len(wanted) == 2 and shape[0] == wanted[0]:
        return [(Permute((0, 2, 3, 1)), Reshape(wanted))]
    if len(shape) == 2 and len(wanted) == 4 and shape[0] == wanted[0]:
        out, channels, height, width = wanted
        return [(Reshape((out, height, width, channels)), Permute((0, 3, 1, 2)))]
    return []


def _same_kind(a: str, b: str) -> bool:
    kinds = {family(a), family(b)}
    return len(kinds) == 1 or kinds <= _ALIKE


def _of_size(weights: list[tuple[str, str]], order: int, given: Guidance, slot: str) -> str | None:
    """Return the weight for a slot where arguments have other names: the only one of its size, or that in its place."""
    size = given.steps[slot].slot.spec.numel
    fitting = [name for _, name in weights if _size(given.shapes[given.keys[name]]) == size]
    if len(fitting) == 1:
        return fitting[0]
    in_place = weights[order][1] if order < len(weights) else None
    return in_place if in_place in fitting else None


def _size(shape: tuple[int, ...]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out
