"""The types for what names say: prefix rules that make names of both sides equal, and the pairs that follow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache
from typing import NamedTuple

from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf
from torchgraft.core.names import words
from torchgraft.core.plan import Certainty, Why
from torchgraft.matching.names.words import canonical


class Prefix(NamedTuple):
    """A rule that reads `old` + rest, a name of the file, as `new` + rest, one of the model; dots are part of both."""

    old: str
    new: str

    def covers(self, name: str) -> bool:
        """Return whether the rule says something of a name of the file."""
        return name.startswith(self.old)

    def applied(self, name: str) -> str:
        """Return what the rule makes of a name that it covers."""
        return self.new + name[len(self.old) :]

    @property
    def is_nested(self) -> bool:
        """Whether the rule leads from a module into one of its own, or out of it."""
        return bool(self.old and self.new) and (self.old.startswith(self.new) or self.new.startswith(self.old))

    @property
    def keeps_numbers(self) -> bool:
        """Whether the rule leaves the numbers of lists as they are; one that changes them is a guess about order."""
        old, new = (re.findall(r"\d+", prefix) for prefix in self)
        return old == new or "" in self

    @property
    def shared_words(self) -> int:
        """How many words the two prefixes share."""
        ours, theirs = ({word for part in prefix.split(".") for word in words(part)} for prefix in self)
        return len(ours & theirs)

    @property
    def shared_meanings(self) -> int:
        """How many canonical words the two prefixes share: `encoder_attn` is called as `cross_attn`, and not as `encoder`."""
        ours, theirs = ({*canonical(prefix)} for prefix in self)
        return len(ours & theirs)

    @property
    def depth(self) -> int:
        """How many modules the two prefixes name."""
        return self.old.count(".") + self.new.count(".")

    @property
    def likeness(self) -> float:
        """How alike the two prefixes are as texts, 0 to 1."""
        return SequenceMatcher(None, *self).ratio()


IDENTITY = Prefix("", "")


@dataclass(frozen=True, slots=True)
class Naming:
    """What names pair, and the rules behind it."""

    pairs: Mapping[str, str]  # source name -> target name
    prefixes: tuple[Prefix, ...]
    rivals: tuple[str, ...] = ()  # source prefixes that would place as much in the same slots
    homes: tuple[str, ...] = ()  # target prefixes that the same tensors would fit as well, the chosen one first
    # Source names that agree once a module in the middle of one side's is set aside.
    wrapped: frozenset[str] = frozenset()
    # Source names of which a rule puts another module around a part of a module, whose other tensors stay where they are:
    # nothing but the last words of the names speaks for them.
    parted: frozenset[str] = frozenset()

    @property
    def is_plain(self) -> bool:
        """Whether one rule alone explains all pairs, and no other would as well."""
        return len(self.prefixes) == 1 and not (self.rivals or self.homes or self.wrapped)

    def reason(self, source: Leaf, target: Leaf) -> Why:
        """Return why two leaves belong together by name."""
        if source.name == target.name or source.name in target.also:
            return SAME_NAME
        if source.name in self.wrapped:
            return Why(Ground.WRAPPER, "same name, with a module around it on one side")
        for rule in self.prefixes:
            if rule.covers(source.name) and target.name == rule.applied(source.name):
                return reason_of(rule)
        return Why(Ground.PREFIX, "same name once prefixes are set aside")

    def certainty(self, source: Leaf) -> Certainty:
        """Return how sure the name of a leaf makes its pair."""
        return Certainty.LIKELY if source.name in self.parted else Certainty.CERTAIN


SAME_NAME = Why(Ground.SAME_NAME, "same name")


@lru_cache
def reason_of(rule: Prefix) -> Why:
    """Return why names belong together that a rule makes equal."""
    if rule == IDENTITY:
        return SAME_NAME
    return Why(Ground.PREFIX, f"same name, with {_quoted(rule.old)} read as {_quoted(rule.new)}")


def _quoted(prefix: str) -> str:
    return f"'{prefix}'" if prefix else "nothing"
