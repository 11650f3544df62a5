"""Modules that were added to a model as copies of others: what the file calls like their layers is not meant for them."""

from __future__ import annotations

from collections.abc import Collection


class AddedModules:
    """Modules that were added to the model as copies of what it shares with the file.

    Inside such a module slots are unmatched whose names the file has, too, but placed elsewhere; so nothing in the file is
    meant for the rest of it either. `placed` are names of the file that are matched, `free` unmatched names of the model.
    """

    def __init__(self, placed: Collection[str], free: Collection[str]) -> None:
        self._placed = placed
        self._free = free

    def have(self, source: str, target: str) -> bool:
        """Return whether the target is the source's name within such a module."""
        if not target.endswith(f".{source}"):
            return False
        around = target.removesuffix(source)
        return any(name.startswith(around) and name.removeprefix(around) in self._placed for name in self._free)
