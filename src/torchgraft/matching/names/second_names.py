"""One tensor under several names: which of them to match by.

A block that keeps its layers as attributes and again in a list (nnU-Net's `conv` and `all_modules.0`), an encoder that the
decoder holds, too, a table that is also the last layer: such names are no rivals of each other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod

from torchgraft.core.match import Leaf
from torchgraft.core.specs import Shape
from torchgraft.matching.names.lists import place_of
from torchgraft.matching.names.words import canonical
from torchgraft.matching.tables.dialect import ROLES

Words = frozenset[str]


def second_names(
    shapes: Mapping[str, Shape], same: Mapping[str, str], paired: Collection[str], targets: Iterable[Leaf]
) -> set[str]:
    """Return the names of the file, each with its shape, that are best left out: another name of the tensor says more.

    `same` maps a name to the first one of the same tensor. Names that are `paired` by name say what they are, all of them.
    Else it is the name of the fewest segments, and of these the first; unless it shares no word with any tensor of the model
    of that size, and another one does. Names of one place that differ in numbers only are repeated layers, which may well
    stand for one each: they stay, unless all layers are one.
    """
    said = _words_by_size((leaf.numel, (leaf.name,)) for leaf in targets)  # a pair is judged by these alone
    members = Counter(place_of(name) for name in shapes)
    out: set[str] = set()
    for names in _groups(shapes, same):
        places = Counter(place_of(name) for name in names)
        if any(1 < count < members[place] for place, count in places.items()):
            continue
        kept = [name for name in names if name in paired]
        if not kept:
            kept = [telling(sorted(names, key=lambda name: name.count(".")), said[prod(shapes[names[0]])])]
        out.update(name for name in names if name not in kept)
    return out


def by_telling_names(targets: Sequence[Leaf], sources: Mapping[str, Shape]) -> list[Leaf]:
    """Return the tensors of the model, those of several names under the one that says most to this file.

    That is one that the file has, too; else another than the first where that shares no word with any tensor of that size in
    the file, and the other does.
    """
    tied = [leaf for leaf in targets if leaf.also and leaf.name not in sources]
    if not tied:
        return list(targets)
    said = _words_by_size((prod(shape), (name,)) for name, shape in sources.items())
    found = {
        leaf.name: next((name for name in leaf.also if name in sources), "")
        or telling((leaf.name, *leaf.also), said[leaf.numel])
        for leaf in tied
    }
    return [_called(leaf, found.get(leaf.name, leaf.name)) for leaf in targets]


def _called(leaf: Leaf, name: str) -> Leaf:
    """Return the leaf under one of its further names."""
    if name == leaf.name:
        return leaf
    return replace(leaf, name=name, also=tuple(other for other in (leaf.name, *leaf.also) if other != name))


def telling(names: Sequence[str], said: Iterable[Words]) -> str:
    """Return the first of the names that shares a word with what is `said` of one tensor of the other side, or the first of all."""
    said = list(said)
    return next((name for name in names if any(_words(name) & other for other in said)), names[0])


def _groups(names: Iterable[str], same: Mapping[str, str]) -> list[list[str]]:
    """Return the names of each tensor that has several, in the order of the file."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[same.get(name, name)].append(name)
    return [names for names in groups.values() if len(names) > 1]


def _words_by_size(tensors: Iterable[tuple[int, Iterable[str]]]) -> Mapping[int, set[Words]]:
    """Return what is said of the tensors of each size, in canonical words."""
    found: dict[int, set[Words]] = defaultdict(set)
    for size, names in tensors:
        found[size].add(frozenset[str]().union(*map(_words, names)))
    return found


def _words(name: str) -> Words:
    """Return the words of a name that aren't said of every tensor."""
    return frozenset(word for word in canonical(name) if word[:1].isalpha() and word not in ROLES)
