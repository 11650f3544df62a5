"""The names that a section of the file is matched by, after the caller's rules, load hooks and spelling; and the way back."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.matching.names.rules import Rules
from torchgraft.matching.names.spelling import as_dotted, as_spelled


@dataclass(frozen=True, slots=True)
class ReadNames:
    """Names to match by, each with its key in the file; `read_by` tells what gave names that aren't their keys."""

    keys: Mapping[str, str]
    read_by: Mapping[str, str]

    def without(self, names: Container[str]) -> ReadNames:
        """Return the same without some of the names."""
        return replace(self, keys={name: key for name, key in self.keys.items() if name not in names})

    def back(self, matching: Matching) -> Matching:
        """Return the matching with the file's own keys in place of the names."""
        matches = tuple([m if self._is_own(m.source) else self._told(m) for m in matching.matches])
        used = {key for m in matches for key in m.source.keys}
        free = [self._own(leaf) for leaf in matching.free_sources]
        return replace(
            matching,
            matches=matches,
            free_sources=tuple([leaf for leaf in free if not used.issuperset(leaf.keys)]),
            derived={self.keys[name]: self.keys[origin] for name, origin in matching.derived.items()},
        )

    def _is_own(self, leaf: Leaf) -> bool:
        return self.read_by.keys().isdisjoint(leaf.keys)

    def _own(self, leaf: Leaf) -> Leaf:
        return leaf if self._is_own(leaf) else replace(leaf, keys=tuple(self.keys[name] for name in leaf.keys))

    def _told(self, found: Match) -> Match:
        """Return a match with the file's own keys, and with what gave them other names in its reason."""
        name = next(one for one in found.source.keys if one in self.read_by)
        rule, text = self.read_by[name], "same name in another spelling"
        if rule != Ground.SPELLING or name != found.target.name:
            old, new = _without_common_end(self.keys[name], name)
            text = f"{old} read as {new}; {found.why.text}"
        return replace(found, source=self._own(found.source), why=replace(found.why, rule=rule, text=text))


def read_names(part: Sequence[str], targets: Sequence[Leaf], rules: Rules, hooks: Mapping[str, str]) -> ReadNames:
    """Return the names to match keys of the file by; `hooks` are what the model's own loading code makes of names.

    Raises:
        UsageError: the rules give several keys one name of the model.
    """
    names = {name for leaf in targets for name in (leaf.name, *leaf.also)}
    ruled = rules.present_once(part, names)
    dotted = as_dotted([name for name, _ in ruled], names)
    hooked = [hooks.get(name, one) for (name, _), one in zip(ruled, dotted, strict=True)]
    shown = as_spelled(hooked, names, (key for leaf in targets for key in leaf.keys))
    read = list(zip(shown, ruled, strict=True))
    return ReadNames(
        keys={new: key for new, (_, key) in read},
        read_by={
            new: Ground.USER_RULE if name != key else Ground.LOAD_HOOK if name in hooks else Ground.SPELLING
            for new, (name, key) in read
            if new != key
        },
    )


def _without_common_end(a: str, b: str) -> tuple[str, str]:
    """Return both names without the last segments that they share, so that a module's tensors all say the same."""
    one, other = a.split("."), b.split(".")
    while len(one) > 1 and len(other) > 1 and one[-1] == other[-1]:
        del one[-1], other[-1]
    return ".".join(one), ".".join(other)
