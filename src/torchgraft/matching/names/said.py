"""What the caller says of places of the model: one object, handed on from the names to the review."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from torchgraft.core.match import Leaf
from torchgraft.core.specs import Slot
from torchgraft.matching.names.patterns import copied_names
from torchgraft.matching.names.rules import Rules

# A module that is trained beside adapters: PEFT keeps a copy of it for each adapter, and the module itself as it was.
TRAINED = re.compile(r"(?P<module>.+)\.modules_to_save\.[^.]+\.(?P<rest>.+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the caller says of places: the rules for names, as the file has their paths, and what follows from them.

    `kept` are the slots that nothing of the file may fill by itself; `copied` those of them that start as copies of others,
    each with the other's name; `trained` are those that PEFT trains beside what they were. `pairs` are the names of
    the file that the rules call as a tensor of the model, each with the name of that; they are known
    once the names of both sides are read (`with_pairs`).
    """

    rules: Rules = field(default_factory=Rules)
    kept: AbstractSet[str] = frozenset()
    copied: Mapping[str, str] = field(default_factory=dict)
    trained: AbstractSet[str] = frozenset()
    pairs: Mapping[str, str] = field(default_factory=dict)

    def keeps(self, leaf: Leaf) -> bool:
        """Whether nothing of the file may fill a tensor of the model."""
        return bool(self.kept) and not self.kept.isdisjoint(leaf.keys)

    def with_pairs(self, sources: Iterable[Leaf], targets: Iterable[Leaf], keys: Mapping[str, str]) -> Said:
        """Return the same with what the rules call as one of the targets; `keys` are the file's by the names of the sources."""
        speak = self.rules.speaker()
        names = {name: leaf.name for leaf in targets for name in (leaf.name, *leaf.also)}
        pairs = {
            leaf.name: names[leaf.name]
            for leaf in sources
            if leaf.name in names and all(speak(keys[name], name) for name in leaf.keys)
        }
        return replace(self, pairs=pairs)


NOTHING_SAID = Said()


def said_of(
    asked: Rules, rules: Rules, slots: Sequence[Slot], started: Container[str], keys: Iterable[str] = ()
) -> Said:
    """Return what the caller says by `rules` for names, and by what slots start with (`started`); `keys` are those of the file.

    `rules` have the lists of `layers` under the paths that the file has, and `asked` under those that were given, which may be
    the model's.
    """
    keeping = [one for one in (asked, rules) if one.fresh or one.zero or one.layers]
    kept = {
        slot.name
        for slot in slots
        if slot.name in started or any(one.keeps(name) for one in keeping for name in slot.names)
    }
    names = [name for slot in slots for name in slot.names]
    copied = copied_names(asked.copies, names)
    originals = _originals(names, keys)
    copied = {copy: name for copy, name in (originals | copied).items() if copy not in kept}
    return Said(rules=rules, kept=kept | copied.keys(), copied=copied, trained=originals.keys())


def _originals(names: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """Return the tensors of modules that PEFT trains as a whole, each with that of the module as it was; none that a file has too."""
    parts = {name: found for name in names if (found := TRAINED.fullmatch(name))}
    if not parts or any(TRAINED.fullmatch(key) for key in keys):
        return {}
    known = set(names)
    originals = {name: f"{found['module']}.original_module.{found['rest']}" for name, found in parts.items()}
    return {name: original for name, original in originals.items() if original in known}
