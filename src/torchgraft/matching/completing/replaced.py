"""Heads that were replaced: one layer of the same size in both makes no pair where all else goes by its name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence

from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.names import DERIVED_ROLES, above, words
from torchgraft.matching.names.lists import have_one_name, is_numbered, is_one_path

# Of all pairs so many at most have other names than the file's; with more, a name that differs tells nothing.
MOST_RENAMED = 0.25


def without_replaced(matching: Matching, said: Collection[str]) -> Matching:
    """Return the matching without pairs between a module and another one that was put in its place.

    The head of a masked language model, say, has one layer of the size of a classifier's, or of a pooler's. Where nearly all
    goes by its name, two modules with other names were not renamed if half of the layers of one, or more, have no place: they do
    something else, unless both sides have what is called as one of them. Members of lists are judged elsewhere, and what the
    caller says of the slots `said` holds.
    """
    renamed = _renamed(matching.matches)
    if not renamed or len(renamed) > MOST_RENAMED * len(matching.matches):
        return matching
    others = {m.target.name for m in renamed}
    named = [m for m in matching.matches if m.target.name not in others]
    ours = _Unnamed([m.source for m in named], [m.source for m in renamed], matching.free_sources)
    theirs = _Unnamed([m.target for m in named], [m.target for m in renamed], matching.free_targets)
    between: defaultdict[tuple[str, str], list[Match]] = defaultdict(list)
    for m in renamed:
        if m.target.name not in said:
            between[ours.module_of(m.source.name), theirs.module_of(m.target.name)].append(m)
    gone = [
        m
        for (one, other), pairs in between.items()
        if one and other and not is_one_path(one, other)
        if not (theirs.has(one) or ours.has(other))
        if ours.is_mostly_free(one) or theirs.is_mostly_free(other)
        for m in pairs
    ]
    return matching.without(gone)


def _renamed(matches: Sequence[Match]) -> list[Match]:
    """Return the pairs of other names, and those that agree by a prefix of few: `classifier` and `decode_head.classifier`."""
    prefixes = {m.target.name: _prefixes(m) for m in matches}
    often = Counter(prefixes.values())
    return [
        m
        for m in matches
        if not have_one_name(m.source, m.target)
        or (any(own := prefixes[m.target.name]) and often[own] <= MOST_RENAMED * len(matches))
    ]


def _prefixes(found: Match) -> tuple[str, str]:
    """Return what either name has before the path in common; neither has anything where any two of the names are equal."""
    ours, theirs = found.source, found.target
    if {ours.name, *ours.also} & {theirs.name, *theirs.also}:
        return "", ""
    shared = min(len(ours.name), len(theirs.name))
    return ours.name[:-shared], theirs.name[:-shared]


class _Unnamed:
    """The modules of one side in which nothing goes by its name: `named` are tensors that do, `renamed` those paired otherwise."""

    def __init__(self, named: Sequence[Leaf], renamed: Sequence[Leaf], free: Sequence[Leaf]) -> None:
        self._named = {path for leaf in named for path in (leaf.name, *above(leaf.name))}
        self._families = self._shared_words(
            {leaf.name.partition(".")[0] for leaf in (*renamed, *free) if "." in leaf.name}
        )
        self._paired, self._layers = self._by_module(renamed), self._by_module((*renamed, *free))

    def _by_module(self, leaves: Iterable[Leaf]) -> dict[str, set[str]]:
        """Return the layers of each module: modules with tensors of their own."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for leaf in leaves:
            if leaf.role not in DERIVED_ROLES:
                found[self.module_of(leaf.name)].add(leaf.owner)
        return found

    def _shared_words(self, roots: Iterable[str]) -> set[str]:
        """Return the first words of modules at the root that only such modules have, several of them: of parts of one."""
        firsts = Counter(words(name)[0] for name in roots if name not in self._named and len(words(name)) > 1)
        taken = {words(path)[0] for path in self._named if "." not in path and words(path)}
        return {word for word, count in firsts.items() if count > 1} - taken

    def module_of(self, name: str) -> str:
        """Return the outermost module around a tensor in which nothing goes by its name, "" where there is none or it is in a list.

        Layers at the root that share their first word are one: `vocab_transform`, `vocab_layer_norm`.
        """
        path = ""
        for module in above(name):
            if module in self._named:
                break
            path = module
        if is_numbered(path):
            return ""
        first = (words(path) or ("",))[0]
        return f"{first}_" if "." not in path and first in self._families else path

    def has(self, module: str) -> bool:
        """Return whether a module, maybe one of the other side, has layers here that don't go by their names."""
        return module in self._layers

    def is_mostly_free(self, module: str) -> bool:
        """Return whether half of a module's layers or more have no place on the other side."""
        return 2 * len(self._paired[module]) <= len(self._layers[module])
