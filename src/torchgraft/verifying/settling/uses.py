"""What becomes of a value in a run: the kinds of operations that use it, and in which place."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from torchgraft.core.families import family

if TYPE_CHECKING:
    from torchgraft.core.results.recording import Recording

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
