"""Numbered lists that lose whole members: some are left over that are built like others, which are used."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torchgraft.core.formatting import runs_words
from torchgraft.core.names import is_derived, parent_of
from torchgraft.core.specs import Shape, TensorSpec

_NUMBERED = re.compile(r"(?P<stem>\D*)(?P<number>\d{1,18})")


class Cut(NamedTuple):
    """Which members of a list are left over, by their numbers, of which."""

    numbers: tuple[int, ...]
    left: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many members the list has."""
        return len(self.numbers)

    def words(self, one: str, more: str) -> str:
        """Return which members are left over, with the verb for one or for more."""
        return f"number {self.left[0]} {one}" if len(self.left) == 1 else f"numbers {runs_words(self.left)} {more}"


def spread(cut: Cut) -> list[int]:
    """Return as many members as are not left over, from the first to the last at about equal steps."""
    kept, last = cut.size - len(cut.left), cut.size - 1
    return [cut.numbers[round(at * last / max(kept - 1, 1))] for at in range(kept)]


def repeated(cut: Cut) -> list[int]:
    """Return for each member one of those that are not left over, if these are counted from the same number, each as often."""
    kept = cut.size - len(cut.left)
    return [cut.numbers[at * kept // cut.size] for at in range(cut.size)]


def cut_lists(
    specs: Mapping[str, TensorSpec], left_over: Collection[str], used: Collection[str]
) -> dict[Cut, list[str]]:
    """Return the lists that lose whole members, in file order: those left over are built like others, which are used.

    A list is named as `layers=` takes it: by its path, or as `layer{i}` where members have their numbers in their names.
    """
    found: dict[Cut, list[str]] = {}
    if not left_over:
        return found
    for before, members in _lists(_modules(specs, left_over, used)).items():
        like = {one.kind for one in members.values() if one.is_used}
        left = tuple(sorted(number for number, one in members.items() if not one.is_taken))
        norms = not before.endswith(".") and not any(one.has_matrix for one in members.values())
        if (
            left and not norms and all(members[number].kind in like for number in left)
        ):  # `norm1` and `norm2` are no list
            path = before.removesuffix(".") if before.endswith(".") else f"{before}{{i}}"
            found.setdefault(Cut(tuple(sorted(members)), left), []).append(path)
    return found


@dataclass(slots=True)
class _Module:
    """What lies in a module. `kind` is equal where all names and shapes are; `is_used`: some of it is; `is_taken`: not all is left over."""

    tensors: dict[str, Shape] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    kind: int = -1
    is_taken: bool = False
    is_used: bool = False
    has_matrix: bool = False


def _modules(specs: Mapping[str, TensorSpec], left_over: Collection[str], used: Collection[str]) -> dict[str, _Module]:
    """Return all modules by their paths, in file order, each before what lies in it."""
    found = {"": _Module()}
    for name, spec in specs.items():
        if is_derived(spec):
            continue
        path, _, role = name.rpartition(".")
        module = found.get(path) or _added(found, path)
        module.tensors[role] = spec.shape
        module.is_taken |= name not in left_over
        module.is_used |= name in used
        module.has_matrix |= len(spec.shape) > 1
    kinds: dict[object, int] = {}
    for path, module in reversed(found.items()):
        inside = frozenset(module.tensors.items()), frozenset(module.parts.items())
        module.kind = kinds.setdefault(inside, len(kinds))
        above, _, last = path.rpartition(".")
        if path:
            around = found[above]
            around.parts[last] = module.kind
            around.is_taken |= module.is_taken
            around.is_used |= module.is_used
            around.has_matrix |= module.has_matrix
    return found


def _added(found: dict[str, _Module], path: str) -> _Module:
    """Return the module of a path, now among those that were found, and all around it."""
    new: list[str] = []
    while path not in found:
        new.append(path)
        path = parent_of(path)
    for one in reversed(new):
        found[one] = _Module()
    return found[new[0]]


def _lists(modules: Mapping[str, _Module]) -> Mapping[str, Mapping[int, _Module]]:
    """Return the members of each list by their numbers; a list by what stands before these, such as `blocks.` or `mapping.fc`."""
    found: defaultdict[str, dict[int, _Module]] = defaultdict(dict)
    for path, module in modules.items():
        above, dot, last = path.rpartition(".")
        if last[-1:].isdigit() and (numbered := _NUMBERED.fullmatch(last)):
            found[f"{above}{dot}{numbered['stem']}"][int(numbered["number"])] = module
    return found
