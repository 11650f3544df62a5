"""Tensors that leave a module of their own name, though it has a place for them: a name that says so is not overruled."""

from __future__ import annotations

import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence

from torchgraft.core.match import Leaf, Matching
from torchgraft.core.names import above, ends, shared_start, wrappers
from torchgraft.core.specs import Shape
from torchgraft.matching.names.lists import is_numbered, is_one_path, place_of
from torchgraft.matching.names.naming import IDENTITY, Prefix
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import flat_class
from torchgraft.matching.reviewing.finished import Finished
from torchgraft.matching.tables.dialect import ROLES

OWN = "the model has {0}, too, of the same shape"
HELD = "the file has {0}, too, of the same shape"
LEFT = "the model has {0}, too, and {1} in it, of the same shape, stays free"
TAKEN = "the file has {0}, too, and {1} in it, of the same shape, stays free"

# Of two modules so much must be in doubt for the rest of what goes from one to the other to be so, too.
SHARE = 0.25
_IN_BLOCK = re.compile(r"\d\.\D")
_MEMBER = re.compile(r"(?:.*\.)?(\d+\..+)")  # greedy: the last one

# What a place must have in common with a tensor: its role and shape, and whether it is in a block within the module.
Kind = tuple[str, Shape, bool]
# The first free tensor of each kind by the modules around it.
Free = Mapping[str, Mapping[Kind, str]]


def passing_own_places(finished: Finished) -> dict[str, str]:
    """Return the slots in doubt that are fed from a module to another where either has a place of its own.

    `attn.q` goes to `cross_attn.q`, and the file's `cross_attn` has four layers that go nowhere: perhaps it is those.
    """
    matching, prefixes = finished.matching, finished.naming.prefixes
    first = prefixes[0] if prefixes else IDENTITY
    places = Places(matching, first if "" in first else IDENTITY)
    doubts = {m.target.name: text for m in matching.matches if (text := places.doubt(m.source, m.target))}
    left = {m.target.name: said for m in matching.matches if (said := places.left(m.source, m.target))}
    if not (doubts or left):
        return {}
    moved = [[m.target.name for m in together] for together in finished.modules.together(matching.matches).values()]
    return {**_spread(left, moved), **_spread(doubts, moved), **doubts}


def _spread(doubts: Mapping[str, str], moved: Iterable[Sequence[str]]) -> Mapping[str, str]:
    """Return the doubts, and those of what is moved together with them, where they are a good part of that."""
    spread: dict[str, str] = {}
    for names in moved:
        held = [name for name in names if name in doubts]
        if held and len(held) >= SHARE * len(names):
            spread |= {name: doubts.get(name, doubts[held[0]]) for name in names}
    return spread


class Places:
    """What the modules of either side have for others; names of the file are read by `rule`, the wrapper around most of a side.

    What differs in numbers alone is left to the rules for lists, and what goes to several places to those that sent it.
    """

    def __init__(self, matching: Matching, rule: Prefix) -> None:
        self._rule = rule
        found = matching.matches
        sides = (
            [*(m.source.name for m in found), *(leaf.name for leaf in matching.free_sources)],
            [*(m.target.name for m in found), *(leaf.name for leaf in matching.free_targets)],
        )
        self._around = [deque(wrappers(names), maxlen=1) for names in sides]
        self._named = {leaf.name: leaf.shape for leaf in (*(m.source for m in found), *matching.free_sources)}
        self._often = Counter([m.source.name for m in matching.matches])
        self._slots = _Held({self._inside(m.target.name, 1): m.target.shape for m in found})
        self._tensors = _Held({self._shown(m.source): m.source.shape for m in found})
        self._free = {leaf.name: leaf.shape for leaf in matching.free_targets}
        self._free_targets = _by_module((self._inside(leaf.name, 1), leaf) for leaf in matching.free_targets)
        self._free_sources = _by_module((self._shown(leaf), leaf) for leaf in matching.free_sources)

    def _shown(self, leaf: Leaf) -> str:
        """Return the name of a tensor of the file as the model would spell it, without what all of a side lies in."""
        if self._rule == IDENTITY or not self._rule.covers(leaf.name):
            return self._inside(leaf.name, 0)
        return self._inside(self._rule.applied(leaf.name), 1)

    def _inside(self, name: str, side: int) -> str:
        return name.removeprefix(self._around[side][0]) if self._around[side] else name

    def left(self, source: Leaf, target: Leaf) -> str:
        """Return that the very name of a tensor stays free, wrapper or not; of one alone that is no wonder."""
        name = source.name
        own = name != target.name and place_of(name) != place_of(target.name) and self._free.get(name) == source.shape
        return OWN.format(_layer(name)) if own and self._often[name] == 1 else ""

    def doubt(self, source: Leaf, target: Leaf) -> str:
        """Return what speaks against a pair, "" where nothing does."""
        ours, theirs = self._shown(source), self._inside(target.name, 1)
        if target.name == source.name or self._often[source.name] > 1:
            return ""
        if ours == theirs:
            return HELD.format(_layer(target.name)) if self._named.get(target.name) == source.shape else ""
        text = self._sentence(ours, theirs, source, target)
        return text if text and place_of(ours) != place_of(theirs) else ""

    def _sentence(self, ours: str, theirs: str, source: Leaf, target: Leaf) -> str:
        if own := self._slots.own_name(ours, theirs, source.shape):
            return OWN.format(_layer(own))
        if own := self._tensors.own_name(theirs, ours, target.shape):
            return HELD.format(_layer(own))
        return _of_modules(LEFT, (ours, theirs), source, self._free_targets) or _of_modules(
            TAKEN, (theirs, ours), source, self._free_sources
        )


def _layer(name: str) -> str:
    """Return the layer that a weight, a bias or a statistic belongs to, so that all of a layer have one reason; else the name."""
    owner, _, role = name.rpartition(".")
    return owner if owner and role in ROLES else name


class _Held:
    """What one side holds, by name; `shapes` are those of what is paired."""

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self._shapes = shapes
        self._members = {_in_member(name) for name in shapes}  # most names have no end that one of these has, too

    def own_name(self, name: str, other: str, shape: Shape) -> str:
        """Return the name that a tensor of the other side has here, where something of its shape has it; "" where nothing has.

        That is its very name, or the longest end of it that lies in a list, unless what it goes to shares a longer end with it,
        or more words.
        """
        if self._shapes.get(name) == shape:
            return name
        if _in_member(name) not in self._members:
            return ""
        found = (end for end in ends(name) if self._shapes.get(end) == shape and is_numbered(end.rpartition(".")[0]))
        end = next(found, "")
        if not end or is_one_path(place_of(name), place_of(other)) or _shared_end(name, other) > _shared_end(name, end):
            return ""
        more = {*canonical(name)} & {*canonical(other)} - {*canonical(end)}
        return end if not more else ""


def _shared_end(one: str, other: str) -> int:
    """Return how many segments two names end in alike."""
    return shared_start(one.split(".")[::-1], other.split(".")[::-1])


def _in_member(name: str) -> str:
    """Return what comes from the last number of a module on: `layers.3.mlp.weight` -> `3.mlp.weight`; "" without any."""
    found = _MEMBER.match(name)
    return found[1] if found else ""


def _of_modules(text: str, names: tuple[str, str], leaf: Leaf, free: Free) -> str:
    """Return that a module around the first name, and not around the other, has a free place for a tensor."""
    name, other = names
    for path in above(name) if free else ():
        if other.startswith(f"{path}."):
            break
        place = free.get(path, {}).get(_kind(name, path, leaf.shape))
        if place is not None and (len(leaf.shape) > 1 or place == name):
            return text.format(path, place)
    return ""


def _by_module(leaves: Iterable[tuple[str, Leaf]]) -> Free:
    found: dict[str, dict[Kind, str]] = defaultdict(dict)
    for name, leaf in leaves:
        for path in above(name):
            found[path].setdefault(_kind(name, path, leaf.shape), name)
    return found


def _kind(name: str, path: str, shape: Shape) -> Kind:
    owner, _, role = name[len(path) + 1 :].rpartition(".")
    return role, flat_class(shape), _IN_BLOCK.search(owner) is not None
