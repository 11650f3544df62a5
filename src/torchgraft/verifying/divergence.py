"""Where two recordings part: the first operation whose result is nowhere in the other run, and never recovers.

Two implementations of one network take other paths to the same values: fused or split projections, another order of
scaling and adding. So an operation without a counterpart is no fault as long as something that was made of its result
is found in the other run again. What is never found again is where the two part.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Container, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

from torchgraft.core.results.recording import Fingerprint, Operation, Recording, Value, family

# Rounding of one operation, by the type that most activations have, as a bound on the distance of fingerprints; and
# how much an operation may add to the distance that its inputs have. Past the limit nothing counts as rounding.
ROUNDING = {"float64": 1e-11, "float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}
GROWTH = 30.0
LIMIT = 500.0
# Where outputs differ and no operation does by more than rounding, the tolerance shrinks by this factor, down to the least.
FINER = 8.0
FINEST = 1e-12
# Operations whose results say little of what they were made of: random numbers, comparisons, positions, whole numbers.
_FORGETTING = frozenset({
    "normal", "normal_functional", "uniform", "bernoulli", "exponential", "random", "multinomial", "poisson",
    "gt", "lt", "ge", "le", "eq", "ne", "isnan", "isinf", "isfinite", "logical_not", "logical_and", "logical_or",
    "sign", "sgn", "signbit", "heaviside", "round", "floor", "ceil", "trunc", "argmax", "argmin", "argsort", "any", "all",
    "nonzero", "count_nonzero", "bucketize", "searchsorted",
})  # fmt: skip
_WHOLE_TYPES = ("torch.int", "torch.uint", "torch.bool", "torch.long")


def is_distinctive(value: Value) -> bool:
    """Whether a value depends on the model's inputs and isn't one number throughout: others agree by chance."""
    return value.live and value.fingerprint is not None and not value.fingerprint.is_plain


@dataclass(frozen=True, slots=True)
class DivergencePoint:
    """Numbers of the operations at which two runs part, in the source and in the target; None: that side has none."""

    source: int | None
    target: int | None


class Matches:
    """Which values of the target's run are values of the source's run, too.

    `source_of` has for numbers of the target's values those of the source's that have the same fingerprint, the nearest
    first; `target_of` the same from the source's side.
    """

    def __init__(self, source: Recording, target: Recording, rounding: float) -> None:
        self.source, self.target = source, target
        self._rounding = rounding
        self._index = FingerprintIndex(source)
        self.source_of: dict[int, tuple[int, ...]] = {}
        self._errors: dict[int, float] = {}
        self._match_all()

    def _match_all(self) -> None:
        values = self.target.values
        for number, value in enumerate(values):
            if value.op < 0:
                self._match(number, value.fingerprint, self._rounding)
        for operation in self.target.operations:
            inherited = max((self._errors.get(n, 0.0) for n in operation.inputs), default=0.0)
            allowed = min(max(self._rounding, GROWTH * inherited), LIMIT * self._rounding)
            for number in operation.outputs:
                self._match(number, values[number].fingerprint, allowed, inherited)

    def _match(self, number: int, fingerprint: Fingerprint | None, allowed: float, inherited: float = 0.0) -> None:
        near = self._index.near(fingerprint, allowed) if fingerprint is not None else []
        if near:
            self.source_of[number] = tuple(n for _, n in near)
            self._errors[number] = near[0][0]
        else:
            self._errors[number] = inherited

    @cached_property
    def target_of(self) -> Mapping[int, tuple[int, ...]]:
        """Numbers of the target's values for those of the source's that have the same fingerprint."""
        out: defaultdict[int, list[int]] = defaultdict(list)
        for number, sources in self.source_of.items():
            for other in sources:
                out[other].append(number)
        return {number: tuple(targets) for number, targets in out.items()}

    def first_divergence(self, modules: Mapping[str, str], known_wrong: int | None = None) -> DivergencePoint | None:
        """Return where the runs part, None where every operation has a counterpart.

        `modules` maps the target's modules to the source's. `known_wrong` is an operation of the target at which the runs
        part unless they do so before.
        """
        target = _frontier(self.target, self.source_of)
        source = _frontier(self.source, self.target_of)
        if known_wrong is not None and (not target or known_wrong < target[0]):
            target = [known_wrong]
        if not target:
            return DivergencePoint(source[0], None) if source else None
        return DivergencePoint(self._counterpart(target[0], source, modules), target[0])

    def until_they_part(self, modules: Mapping[str, str]) -> Matches:
        """Return these matches if the runs part in them; else the coarsest finer ones in which they do, if any."""
        found = self
        while found._rounding > FINEST and found.first_divergence(modules) is None:
            found = Matches(self.source, self.target, found._rounding / FINER)
        return found

    def _counterpart(self, number: int, frontier: list[int], modules: Mapping[str, str]) -> int | None:
        """Return the source's operation that does what the target's does: on the same values, and of the same kind.

        What the source gets by an operation, and the target gets, too, is no counterpart of what is found nowhere, unless both
        stand in modules that belong together.
        """
        operation = self.target.operations[number]
        inputs = {s for n in operation.inputs if self.target.values[n].live for s in self.source_of.get(n, ())}
        users = (i for i, o in enumerate(self.source.operations) if not inputs.isdisjoint(o.inputs))

        def likeness(candidate: int) -> tuple[bool, bool, bool, bool, bool, int]:
            other = self.source.operations[candidate]
            shares_input = not inputs.isdisjoint(other.inputs)
            return (
                modules.get(operation.module) == other.module or not all(n in self.target_of for n in other.outputs),
                shares_input and family(other.name) == family(operation.name),
                modules.get(operation.module) == other.module,
                candidate in frontier,
                other.name == operation.name,
                -candidate,
            )

        return max(dict.fromkeys([*frontier, *users]), key=likeness, default=None)


def _frontier(recording: Recording, matched: Container[int]) -> list[int]:
    """Return operations on activations, in order, whose inputs recover and whose results don't."""
    values = recording.values
    results = _results(recording)
    recovered = _recovered(recording, matched, results)
    consumed = {n for operation in recording.operations for n in operation.inputs} | set(recording.outputs)
    out = []
    for number, (operation, made) in enumerate(zip(recording.operations, results, strict=True)):
        used = [n for n in made if n in consumed and values[n].fingerprint is not None]
        if not any(values[n].live for n in used) or all(n in recovered for n in used):
            continue
        activations = [n for n in operation.inputs if values[n].live and values[n].op >= 0 and values[n].fingerprint]
        if all(n in recovered for n in activations):
            out.append(_producer(recording, number, matched))
    return out


def _results(recording: Recording) -> list[tuple[int, ...]]:
    """Return for each operation the values it made: what it returned, and what it wrote into memory seen elsewhere."""
    made = [list(operation.outputs) for operation in recording.operations]
    for number, value in enumerate(recording.values):
        if value.op >= 0 and number not in made[value.op]:
            made[value.op].append(number)
    return [tuple(numbers) for numbers in made]


def _recovered(recording: Recording, matched: Container[int], results: list[tuple[int, ...]]) -> set[int]:
    """Return the values that the other run has, and those from which such values were made.

    Values of one number throughout agree by chance: nothing follows from them for what they were made of. Nor does it from
    random numbers of the same shape, or from `x > 0`: what goes into such operations alone is recovered with their results.
    """
    constant: set[int] = set()
    recovered: set[int] = set()
    for number, value in enumerate(recording.values):
        if number in matched:
            plain = value.fingerprint is None or value.fingerprint.is_plain
            (constant if plain else recovered).add(number)
    remembered = {n for operation in recording.operations if not _forgets(operation) for n in operation.inputs}
    for operation, made in zip(reversed(recording.operations), reversed(results), strict=True):
        if any(n in recovered for n in made):
            recovered.update(n for n in operation.inputs if n not in remembered or not _forgets(operation))
    return recovered | constant


def _forgets(operation: Operation) -> bool:
    """Return whether other inputs of the same shape might well give the same result."""
    name = operation.name.rstrip("_")
    if name == "_to_copy":
        return str(operation.settings.get("dtype")).startswith(_WHOLE_TYPES)
    return name in _FORGETTING or name.endswith("_like") or name.startswith("new_")


def _producer(recording: Recording, number: int, matched: Container[int]) -> int:
    """Return the operation that computed the tensor that is picked from, where that has no match as a whole."""
    operation = recording.operations[number]
    while family(operation.name) == "pick":
        whole = operation.inputs[0]
        producer = recording.values[whole].op
        if producer < 0 or whole in matched or not recording.values[whole].live:
            break
        number, operation = producer, recording.operations[producer]
    return number


class FingerprintIndex:
    """The fingerprints of a recording, to be looked up by likeness."""

    def __init__(self, recording: Recording) -> None:
        by_size: defaultdict[int, list[tuple[float, int, Fingerprint]]] = defaultdict(list)
        for number, value in enumerate(recording.values):
            if value.fingerprint is not None:
                by_size[value.fingerprint.numel].append((value.fingerprint.squares, number, value.fingerprint))
        self._rows = {size: sorted(rows, key=lambda row: row[:2]) for size, rows in by_size.items()}
        self._keys = {size: [row[0] for row in rows] for size, rows in self._rows.items()}

    def near(self, fingerprint: Fingerprint, allowed: float) -> list[tuple[float, int]]:
        """Return (distance, number) of all values within `allowed`, the nearest first, equal ones in order."""
        keys = self._keys.get(fingerprint.numel)
        if keys is None:
            return []
        rows = self._rows[fingerprint.numel]
        if isfinite(fingerprint.squares):
            width = 2.2 * allowed * fingerprint.squares
            rows = rows[
                bisect_left(keys, fingerprint.squares - width) : bisect_right(keys, fingerprint.squares + width)
            ]
        found = ((row[2].distance(fingerprint), row[1]) for row in rows)
        return sorted(pair for pair in found if pair[0] <= allowed)
