"""Modules that were added to a model beside what it shares with the file: what the file calls like their layers is not meant for them."""

from __future__ import annotations

from collections.abc import Container, Iterable

from torchgraft.core.names import above, shared_start
from torchgraft.matching.tables.dialect import ROLES


class AddedModules:
    """Modules that were added to the model, with layers that are called as others around the module.

    Inside such a module slots are unmatched, while the slots of their names around it are filled with what the file calls so;
    nothing in the file is meant for the rest of the module either. `pairs` are names that are matched, of the file and of
    the model, `free` unmatched names of the model.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]], free: Iterable[str]) -> None:
        filled = {target for source, target in pairs if _shared_end(source, target)}
        self._modules = {module for name in free for module in above(name) if _is_outside(name, module, filled)}

    def have(self, source: str, target: str) -> bool:
        """Return whether the target is what the file has as `source`, within such a module."""
        end = _shared_end(source, target)
        return bool(end) and target[: -len(end) - 1] in self._modules


def _is_outside(name: str, module: str, filled: Container[str]) -> bool:
    """Return whether what is called so within a module is filled around it: in one that the module is in, or at the root."""
    own = name.removeprefix(f"{module}.")
    return own in filled or any(f"{path}.{own}" in filled for path in above(module))


def _shared_end(source: str, target: str) -> str:
    """Return the segments that both names end in, "" where these are no more than the role that every module has."""
    ours, theirs = source.split("."), target.split(".")
    count = shared_start(ours[::-1], theirs[::-1])
    return ".".join(theirs[len(theirs) - count :]) if count > (theirs[-1] in ROLES) else ""
