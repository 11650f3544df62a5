"""Where two recordings part: the first operation whose result the other run has nothing like, and that never recovers.

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

from torchgraft.core.families import family
from torchgraft.core.results.recording import Fingerprint, Recording

# Rounding of one operation, by the type that most activations have, as a bound on the distance of fingerprints; and
# how much an operation may add to the distance that its inputs have. Past the limit nothing counts as rounding.
FLOORS = {"float64": 1e-11, "float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}
GROWTH = 30.0
LIMIT = 500.0


@dataclass(frozen=True, slots=True)
class Parting:
    """Operation numbers at which two runs part, in the source and in the target; None: that side has none."""

    source: int | None
    target: int | None


class Matches:
    """Which values of the target's run are values of the source's run, too."""

    def __init__(self, source: Recording, target: Recording, floor: float) -> None:
        self.source, self.target = source, target
        self._floor = floor
        self._index = Index(source)
        self.found: dict[int, tuple[int, ...]] = {}
        self.noise: dict[int, float] = {}
        self._match()

    def _match(self) -> None:
        values = self.target.values
        for number, value in enumerate(values):
            if value.op < 0:
                self._look(number, value.fingerprint, self._floor)
        for operation in self.target.operations:
            inherited = max((self.noise.get(n, 0.0) for n in operation.inputs), default=0.0)
            allowed = min(max(self._floor, GROWTH * inherited), LIMIT * self._floor)
            for number in operation.outputs:
                self._look(number, values[number].fingerprint, allowed, inherited)

    def _look(self, number: int, look: Fingerprint | None, allowed: float, inherited: float = 0.0) -> None:
        near = self._index.near(look, allowed) if look is not None else []
        if near:
            self.found[number] = tuple(n for _, n in near)
            self.noise[number] = near[0][0]
        else:
            self.noise[number] = inherited

    @cached_property
    def back(self) -> Mapping[int, tuple[int, ...]]:
        """The same from the source's side."""
        out: defaultdict[int, list[int]] = defaultdict(list)
        for number, there in self.found.items():
            for other in there:
                out[other].append(number)
        return {number: tuple(there) for number, there in out.items()}

    @cached_property
    def sound(self) -> frozenset[int]:
        """Numbers of the target's values that agree with the source, or of which something that agrees was made."""
        return _sound(self.target, self.found)

    @cached_property
    def sound_back(self) -> frozenset[int]:
        """The same from the source's side."""
        return _sound(self.source, self.back)

    def parting(self, modules: Mapping[str, str], first: int | None = None) -> Parting | None:
        """Return where the runs part, None where neither has an operation of no counterpart.

        `modules` maps the target's modules to the source's. `first` is an operation of the target that is known to
        be wrong: the runs part there unless they do so before.
        """
        mine = _frontier(self.target, self.sound, self.found)
        theirs = _frontier(self.source, self.sound_back, self.back)
        if first is not None and (not mine or first < mine[0]):
            mine = [first]
        if not mine:
            return Parting(theirs[0], None) if theirs else None
        return Parting(self._counterpart(mine[0], theirs, modules), mine[0])

    def _counterpart(self, there: int, frontier: list[int], modules: Mapping[str, str]) -> int | None:
        """Return the source's operation that does what the target's does: on the same values, and of the same kind."""
        operation = self.target.operations[there]
        mine = {s for n in operation.inputs if self.target.values[n].live for s in self.found.get(n, ())}
        users = (i for i, o in enumerate(self.source.operations) if not mine.isdisjoint(o.inputs))

        def likeness(number: int) -> tuple[bool, bool, bool, bool, int]:
            other = self.source.operations[number]
            shares = not mine.isdisjoint(other.inputs)
            return (
                shares and family(other.name) == family(operation.name),
                modules.get(operation.module) == other.module,
                number in frontier,
                other.name == operation.name,
                -number,
            )

        return max(dict.fromkeys([*frontier, *users]), key=likeness, default=None)


def _made_by(recording: Recording) -> list[tuple[int, ...]]:
    """Return for each operation the values it made: what it returned, and what it wrote into memory seen elsewhere."""
    made = [list(operation.outputs) for operation in recording.operations]
    for number, value in enumerate(recording.values):
        if value.op >= 0 and number not in made[value.op]:
            made[value.op].append(number)
    return [tuple(numbers) for numbers in made]


def _sound(recording: Recording, found: Mapping[int, tuple[int, ...]]) -> frozenset[int]:
    sound = {
        n for n in found if (look := recording.values[n].fingerprint) is not None and not look.is_plain
    }  # fmt: skip
    plain = {n for n in found if n not in sound}
    for operation, made in zip(reversed(recording.operations), reversed(_made_by(recording)), strict=True):
        if any(n in sound for n in made):
            sound.update(operation.inputs)
    return frozenset(sound | plain)


def _consumed(recording: Recording) -> set[int]:
    return {n for operation in recording.operations for n in operation.inputs} | set(recording.outputs)


def _frontier(recording: Recording, sound: frozenset[int], found: Container[int]) -> list[int]:
    """Return operations on activations, in order, whose results are not sound while all that they are made of is."""
    consumed = _consumed(recording)
    out = []
    values = recording.values
    for number, (operation, made_here) in enumerate(zip(recording.operations, _made_by(recording), strict=True)):
        used = [n for n in made_here if n in consumed and values[n].fingerprint is not None]
        if not used or not any(values[n].live for n in used) or all(n in sound for n in used):
            continue
        made = [n for n in operation.inputs if values[n].live and values[n].op >= 0 and values[n].fingerprint]
        if all(n in sound for n in made):
            out.append(_maker(recording, number, found))
    return out


def _maker(recording: Recording, number: int, found: Container[int]) -> int:
    """Return the operation that computed what a picking one picks from, where its result as a whole has no match."""
    operation = recording.operations[number]
    while family(operation.name) == "pick":
        whole = operation.inputs[0]
        maker = recording.values[whole].op
        if maker < 0 or whole in found or not recording.values[whole].live:
            break
        number, operation = maker, recording.operations[maker]
    return number


class Index:
    """Fingerprints of a recording, to be found by likeness."""

    def __init__(self, recording: Recording) -> None:
        by_size: defaultdict[int, list[tuple[float, int, Fingerprint]]] = defaultdict(list)
        for number, value in enumerate(recording.values):
            if value.fingerprint is not None:
                by_size[value.fingerprint.numel].append((value.fingerprint.squares, number, value.fingerprint))
        self._rows = {size: sorted(rows, key=lambda row: row[:2]) for size, rows in by_size.items()}
        self._keys = {size: [row[0] for row in rows] for size, rows in self._rows.items()}

    def near(self, look: Fingerprint, allowed: float) -> list[tuple[float, int]]:
        """Return (distance, number) of all values within `allowed`, the nearest first, equal ones in order."""
        keys = self._keys.get(look.numel)
        if keys is None:
            return []
        rows = self._rows[look.numel]
        if isfinite(look.squares):
            width = 2.2 * allowed * look.squares
            rows = rows[bisect_left(keys, look.squares - width) : bisect_right(keys, look.squares + width)]
        found = ((row[2].distance(look), row[1]) for row in rows)
        return sorted(pair for pair in found if pair[0] <= allowed)
