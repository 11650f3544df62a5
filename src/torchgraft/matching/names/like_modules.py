"""Modules that one side has beside what it shares with the other, built alike: their layers are called as others are."""

from __future__ import annotations

from collections.abc import Collection


class LikeModules:
    """Which modules of the model have, beside something of one name, more that is called as in the file and left.

    What the file calls so has its place elsewhere: such a module was added, and nothing in the file is meant for it.
    `placed` are names of the file that have a place, `free` those of the model without a source.
    """

    def __init__(self, placed: Collection[str], free: Collection[str]) -> None:
        self._placed = placed
        self._free = free

    def have(self, source: str, target: str) -> bool:
        """Return whether the target is the source's name in such a module."""
        if not target.endswith(f".{source}"):
            return False
        around = target.removesuffix(source)
        return any(name.startswith(around) and name.removeprefix(around) in self._placed for name in self._free)
