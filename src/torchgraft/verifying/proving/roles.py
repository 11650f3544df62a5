"""The role of a value: what is done with it further on in its own run, beside what the other run does with its equal.

A model whose queries hold the keys of the source has all values of the source, each in its run. That they serve as each other
shows only in what is made of them, and where outputs don't depend on that, nowhere else. Blocks behind gates of zero all get
the same values: which of them is which shows only in which comes first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property, reduce
from operator import or_

from torchgraft.core.results.recording import Operation, Recording, family
from torchgraft.verifying.divergence import Matches

# A role covers so many operations behind a value: rotary positions and norms of queries lie between.
FARTHEST = 12
# The longest chain of values that is followed, each in the role of the one before.
LONGEST_CYCLE = 4
_COMMUTING = frozenset({"add", "mul"})


class Roles:
    """The roles of a target's values, and which of these are exchanged with each other, compared with the source."""

    def __init__(self, matches: Matches) -> None:
        self._matches = matches
        self._target, self._source = _Uses(matches.target), _Uses(matches.source)
        self._exchanged: dict[int, bool] = {}

    def exchanged(self, number: int) -> bool:
        """Return whether a value of the target, or some part that is picked of it, stands in the role of another.

        That is: the source does with it what the target does with another value, which the source has as well, and so on
        until it comes back to the first; or it is made on the way to a value of the same role in the one run, and of that in
        the other.
        """
        if number not in self._exchanged:
            self._exchanged[number] = (
                self._is_displaced(number)
                or self._is_out_of_order(number)
                or any(self.exchanged(part) for part in self._target.parts(number))
            )
        return self._exchanged[number]

    def _is_displaced(self, number: int) -> bool:
        for distance in range(1, FARTHEST + 1):
            if self._target.roles(distance)[number] not in self._roles_in_source(number, distance):
                return number in self._matches.source_of and self._comes_back(number, distance)
        return False

    def _comes_back(self, number: int, distance: int) -> bool:
        """Return whether a chain of values, each in the role that the source has for the one before, leads back to a value."""
        numel = self._numel(number)
        seen, last = {number}, {number}
        for _ in range(LONGEST_CYCLE):
            wanted = {role for one in last for role in self._roles_in_source(one, distance)}
            found = {n for role in wanted for n in self._target.by_role(distance)[role] if self._numel(n) == numel}
            if number in found:
                return True
            last = found - seen
            seen |= found
        return False

    def _is_out_of_order(self, number: int) -> bool:
        of = self._matches.source_of
        role, numel = self._target.roles(FARTHEST)[number], self._numel(number)
        for other in self._target.by_role(FARTHEST)[role]:
            if other != number and self._numel(other) == numel:
                way = self._target.is_behind(number, other) - self._target.is_behind(other, number)
                pairs = [(a, b) for a in of.get(number, ()) for b in of.get(other, ())] if way else []
                if pairs and all(self._source.is_behind(a, b) - self._source.is_behind(b, a) == -way for a, b in pairs):
                    return True
        return False

    def _roles_in_source(self, number: int, distance: int) -> set[int]:
        roles = self._source.roles(distance)
        return {roles[other] for other in self._matches.source_of.get(number, ())}

    def _numel(self, number: int) -> int:
        found = self._matches.target.values[number].fingerprint
        return found.numel if found else 0


class _Uses:
    """What is done with the values of one run, as hashes that are equal where the same is done."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._roles: list[list[int]] = [[0] * len(recording.values)]
        self._by_role: dict[int, Mapping[int, list[int]]] = {}

    @cached_property
    def _users(self) -> Mapping[int, list[int]]:
        return self._recording.users()

    @cached_property
    def _weighed(self) -> Mapping[int, int]:
        """The values that weights enter into at once, each with a bit of its own."""
        values = self._recording.values
        made = [
            n for one in self._recording.operations if any(values[i].weights for i in one.inputs) for n in one.outputs
        ]
        return {number: 1 << at for at, number in enumerate(dict.fromkeys(made))}

    @cached_property
    def _behind(self) -> list[int]:
        """For each value the bits of those that it was made of, and its own."""
        behind = [self._weighed.get(number, 0) for number in range(len(self._recording.values))]
        for operation in self._recording.operations:
            union = reduce(or_, (behind[number] for number in operation.inputs), 0)
            for number in operation.outputs:
                behind[number] |= union
        return behind

    def is_behind(self, number: int, other: int) -> bool:
        """Whether `other` was made of a value, which weights enter into at once."""
        return number != other and bool(self._behind[other] & self._weighed.get(number, 0))

    def parts(self, number: int) -> list[int]:
        """Return what is picked of a value of which nothing but parts is used."""
        by = [self._recording.operations[at] for at in self._users.get(number, ())]
        return [n for one in by for n in one.outputs] if all(family(one.name) == "pick" for one in by) else []

    def roles(self, distance: int) -> list[int]:
        """Return for each value what is done with it, so many operations on: a hash."""
        while len(self._roles) <= distance:
            self._roles.append([self._role(number, self._roles[-1]) for number in range(len(self._recording.values))])
        return self._roles[distance]

    def by_role(self, distance: int) -> Mapping[int, list[int]]:
        """Return the live values in each role."""
        if distance not in self._by_role:
            found: defaultdict[int, list[int]] = defaultdict(list)
            for number, role in enumerate(self.roles(distance)):
                if self._recording.values[number].live:
                    found[role].append(number)
            self._by_role[distance] = found
        return self._by_role[distance]

    def _role(self, number: int, before: list[int]) -> int:
        uses = [self._use(self._recording.operations[at], number, before) for at in self._users.get(number, ())]
        returned = [at for at, one in enumerate(self._recording.outputs) if one == number]
        return hash((tuple(sorted(uses)), tuple(returned)))

    def _use(self, operation: Operation, number: int, before: list[int]) -> int:
        places = () if operation.name.rstrip("_") in _COMMUTING else _places(operation, number)
        return hash((family(operation.name), places, tuple(before[n] for n in operation.outputs)))


def _places(operation: Operation, number: int) -> tuple[int, ...]:
    return tuple(at for at, one in enumerate(operation.inputs) if one == number)
