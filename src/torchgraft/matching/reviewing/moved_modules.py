"""Parts of the file that would fill another part of the model than their own: names must say so, shapes alone don't.

Who adds a part to a model mostly copies one: an auxiliary head, a target network, a second tower. It has all the shapes
of the one it was copied from, so that nothing but names tells which of them a tensor belongs to.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from torchgraft.core.match import Match, Matching
from torchgraft.core.names import above, shared_start
from torchgraft.core.plan import Certainty
from torchgraft.core.specs import Shape
from torchgraft.matching.names.lists import have_one_name, is_numbered, is_one_path
from torchgraft.matching.names.words import canonical, is_short_for
from torchgraft.matching.reviewing.finished import Finished, ModulePair

STRAY = "{0} and {1} have parts of the same names and shapes, and the rest of what this belongs to goes with {1}"
QUALIFIED = "most names agree, and of {0} and {1} one is called as the other and more, as parts are that were added"
UNTOLD = "{0} and {1} have parts of the same names and shapes, {1} has its own place, and nothing says that {0} is {2}"
UNLIKE = "{0} and {1} have the same few layers and nothing in common by name, where nearly all names agree: of two tasks, perhaps"
TORN = (
    "{0} is a part of {1}, of which half or more has no place, and it would go to what lies in no list",
    "{0} is a part of {1}, of which half or more stays fresh, and it would be filled by what lies in no list",
)
CALLED = "the model calls another tensor so, too, which {0} fills"

_NUMBER = re.compile(r"\d+")

# From so many layers on a module is a part of the network, with a name of its own.
PART = 4
# Of all pairs so many go between the two main modules where one of another name tells something.
NEARLY_ALL = 0.75


def moved_without_word(finished: Finished) -> dict[str, str]:
    """Return the slots in doubt that are fed from another part of the network than their own, by their shapes alone."""
    matching, modules = finished.matching, finished.modules
    fed = Counter([m.source.name for m in matching.matches])
    # what goes to all blocks leaves none
    leaving = (m for m in matching.matches if fed[m.source.name] == 1 and not _is_called_as_tied(m))
    groups = modules.together(leaving)
    if len(groups) < 2:
        return {}
    parts = Parts(matching, groups, modules.met)
    said = {pair: dict(parts.doubted(pair)) for pair in parts.open() if pair != parts.main}
    if any(len(doubts) == len(groups[parts.main]) for doubts in said.values()):
        # of two parts of one size neither is the network
        said[parts.main] = {m: text for m, text in parts.doubted(parts.main) if m.certainty is not Certainty.DOUBT}
    return {found.target.name: text for doubts in said.values() for found, text in doubts.items()}


def _is_called_as_tied(found: Match) -> bool:
    """Return whether the source's name is not the target's, and one of its further names."""
    source, target = found.source, found.target
    return bool(target.also) and have_one_name(source, target) and not is_one_path(source.name, target.name)


class Parts:
    """Where the parts of the file go: matches `grouped` by the modules that they are moved between; `met` as in ModulePairs."""

    def __init__(
        self, matching: Matching, grouped: Mapping[ModulePair, Sequence[Match]], met: Mapping[ModulePair, int]
    ) -> None:
        self._matching = matching
        self._groups = grouped
        self.main = max(grouped, key=lambda pair: len(grouped[pair]))
        share = len(grouped[self.main]) / len(matching.matches)
        self._agree, self._nearly_all = share > 0.5, share >= NEARLY_ALL
        self._also = {name: m for m in matching.matches for name in m.target.also}
        self._met = met
        self._one_by_one = all(len({pair[side] for pair in met}) == len(met) for side in (0, 1))

    @cached_property
    def _most(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """For each module of either side the one of the other that most of it goes with."""
        return _most(self._met, 0), _most(self._met, 1)

    @cached_property
    def _partner(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """What each tensor of either side goes with."""
        ends = [(m.source.name, m.target.name) for m in self._matching.matches]
        return dict(ends), {theirs: ours for ours, theirs in ends}

    @cached_property
    def _shapes(self) -> tuple[Mapping[str, Shape], Mapping[str, Shape]]:
        """The shapes of the tensors of either side."""
        found = self._matching
        ours = (*(m.source for m in found.matches), *found.free_sources)
        theirs = (*(m.target for m in found.matches), *found.free_targets)
        return {leaf.name: leaf.shape for leaf in ours}, {leaf.name: leaf.shape for leaf in theirs}

    @cached_property
    def _left(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """How many tensors of each module of either side go nowhere, or get nothing."""
        ours, theirs = self._matching.free_sources, self._matching.free_targets
        return _by_module(leaf.name for leaf in ours), _by_module(leaf.name for leaf in theirs)

    @cached_property
    def _all(self) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """How many tensors each module of either side has."""
        ours, theirs = self._shapes
        return _by_module(ours), _by_module(theirs)

    def open(self) -> Iterable[ModulePair]:
        """Return the pairs of which a rule may say something: of others there may be a hundred thousand."""
        if self._agree or self._also or not self._one_by_one:
            return self._groups
        return [pair for pair, matches in self._groups.items() if len(matches) >= PART]

    def doubted(self, pair: ModulePair) -> Iterator[tuple[Match, str]]:
        """Yield the matches between two modules that are in doubt, each with the reason."""
        if all(pair):
            text = self._qualified(pair) or self._unlike(pair) or self._untold(pair) or self._stray(pair)
        else:
            text = self._of_a_kind(pair) or self._stray(pair)
        text = text or self._torn(pair)
        if text or self._also:
            for found in self._groups[pair]:
                if doubt := text or self._called(found):
                    yield found, doubt

    def _called(self, found: Match) -> str:
        """Return what speaks against a match whose source has another name of a tied tensor that something else fills."""
        ours, theirs = (f"{path}." if path else "" for path in self.main)
        name = found.source.name
        held = self._also.get(theirs + name[len(ours) :]) if name.startswith(ours) else None
        return CALLED.format(held.source.name) if held and held is not found else ""

    def _qualified(self, pair: ModulePair) -> str:
        """Return what speaks against two vectors, side by side outside of lists, if one has the other's name and more: `norm`,
        `pre_norm`.
        """
        if not self._agree or any(map(is_numbered, pair)):
            return ""
        (around, _, own), (beside, _, other) = (name.rpartition(".") for name in pair)
        if around != beside and (around, beside) != self.main:
            return ""
        if any(len(m.target.shape) > 1 or "." in m.source.name[len(pair[0]) + 1 :] for m in self._groups[pair]):
            return ""
        ours, theirs = set(canonical(own)), set(canonical(other))
        return QUALIFIED.format(*(path or "the top level" for path in pair)) if ours < theirs or theirs < ours else ""

    def _of_a_kind(self, pair: ModulePair) -> str:
        """Return what speaks against a layer that leaves a module which is called as it and more: `classifier` of `sop_classifier`."""
        layers = {m.source.owner[len(pair[0]) :].lstrip(".") for m in self._groups[pair]}
        module = max(pair)  # the other one is the model itself
        if not self._agree or is_numbered(module) or len(layers) > 1:
            return ""
        (layer,) = layers
        says_more = set(canonical(layer)) < set(canonical(module.rpartition(".")[2]))
        return QUALIFIED.format(module, layer) if says_more else ""

    def _torn(self, pair: ModulePair) -> str:
        """Return what speaks against a part of a member of a list that goes to what lies in no list, or comes from there, where
        most of the member is left: `mlp.fc` of a block that was taken out to an `fc` that was added.
        """
        for side, (part, home) in enumerate((pair, pair[::-1])):
            if not is_numbered(part) or is_numbered(home):
                continue
            for member in (path for path in (part, *above(part)) if path.rpartition(".")[2].isdecimal()):
                if 2 * self._left[side].get(member, 0) >= self._all[side][member]:
                    return TORN[side].format(part, member)
        return ""

    def _unlike(self, pair: ModulePair) -> str:
        """Return what speaks against two modules of a few layers, outside of lists, that share no word: heads are built alike."""
        layers = {m.source.owner for m in self._groups[pair]} - {pair[0]}  # of a layer's own name judging thinks
        if not self._nearly_all or not 0 < len(layers) < PART or any(map(is_numbered, pair)):
            return ""
        ours, theirs = map(canonical, pair)
        return "" if _common(ours, theirs) or not self._are_whole(pair) else UNLIKE.format(*pair)

    def _are_whole(self, pair: ModulePair) -> bool:
        """Return whether two modules go to each other with all that is in them: one around other parts is but a wrapper."""
        together, (ours, theirs) = self._groups[pair], (f"{path}." for path in pair)
        inside = (m.source.name.startswith(ours) or m.target.name.startswith(theirs) for m in self._matching.matches)
        return sum(inside) == len(together)

    def _untold(self, pair: ModulePair) -> str:
        """Return what speaks against two parts if a twin of either has its own place, and would be called as much like the other.

        The one part may have been taken out of the network, and the other one added, as parts of that build were before.
        """
        matches = self._groups[pair]
        if any(map(is_numbered, pair)) or not _are_several(matches):
            return ""
        for side, (part, home) in enumerate((pair, pair[::-1])):
            tails = [(m.source, m.target)[side].name[len(part) + 1 :] for m in matches]
            for twin in self._twins(side, part, home, tails):
                to = self._partner[side].get(f"{twin}.{tails[0]}", "")
                place = to.removesuffix(f".{tails[0]}")
                if place in (to, home) or (_are_counted(twin, part) and _are_counted(place, home)):
                    continue  # what both sides count is judged elsewhere
                if not _is_called_like(part, home, twin, place):
                    return UNTOLD.format(part, twin, home)
        return ""

    def _twins(self, side: int, part: str, home: str, tails: Sequence[str]) -> Iterator[str]:
        """Yield the twins of a part: most of its tensors are there, too, under the same names inside and in the same shapes.

        So is half of those with rows and columns, as norms are alike beside any layer. Twins lie beside the part; those of one
        of many layers anywhere in what the part and its home have around them.
        """
        shapes = self._shapes[side]
        around = "".join(f"{end}." for end in _common_start(part, home))
        large = len({tail.rpartition(".")[0] for tail in tails}) >= PART
        for name in shapes:
            twin = name[: -len(tails[0]) - 1]
            beside = twin.rpartition(".")[0] == part.rpartition(".")[0] or (large and twin.startswith(around))
            if beside and name.endswith(f".{tails[0]}") and twin != part and not is_numbered(twin):
                alike = [shapes.get(f"{twin}.{tail}") == shapes[f"{part}.{tail}"] for tail in tails]
                layers = [same for tail, same in zip(tails, alike, strict=True) if len(shapes[f"{part}.{tail}"]) > 1]
                if 2 * sum(alike) > len(alike) and 2 * sum(layers) >= len(layers):
                    yield twin

    def _stray(self, pair: ModulePair) -> str:
        """Return what speaks against two parts if most else of the one goes with a twin of the other."""
        if self._one_by_one:
            return ""
        for side, (own, other) in enumerate((pair, pair[::-1])):
            most = self._most[1 - side].get(other, "")
            if most == own or not (most and own) or own.rpartition(".")[2].isdecimal():
                continue  # members of lists are judged elsewhere
            nested = f"{own}.".startswith(f"{most}.") or f"{most}.".startswith(f"{own}.")
            if not nested and self._has_like(side, (most, own), other):
                return STRAY.format(own, most)
        return ""

    def _has_like(self, side: int, twins: tuple[str, str], other: str) -> bool:
        """Return whether one of the tensors that go from the first of two twins to the `other` part is in the second one, too."""
        (one, twin), shapes = twins, self._shapes[side]
        return any(
            name.startswith(f"{one}.") and to.endswith(name[len(one) :]) and to[: len(one) - len(name)] == other
            and shapes.get(twin + name[len(one) :]) == shapes[name]
            for name, to in self._partner[side].items()
        )  # fmt: skip


def _by_module(names: Iterable[str]) -> Mapping[str, int]:
    """Return how many of the names lie in each module."""
    return Counter(path for name in names for path in above(name))


def _most(met: Mapping[ModulePair, int], side: int) -> Mapping[str, str]:
    """Return for each module of one side the one of the other that most of it goes with."""
    found: dict[str, tuple[int, str]] = {}
    for modules, count in met.items():
        found[modules[side]] = max(found.get(modules[side], (0, "")), (count, modules[1 - side]))
    return {module: other for module, (_, other) in found.items()}


def _common_start(part: str, home: str) -> list[str]:
    """Return the segments at the start of two paths that they share."""
    path = part.split(".")
    return path[: shared_start(path, home.split("."))]


def _are_several(matches: Iterable[Match]) -> bool:
    """Return whether a part has layers of its own, or several tensors with rows and columns: one layer is found by its neighbours."""
    found = [m.source for m in matches]
    return len({leaf.owner for leaf in found}) > 1 or sum(len(leaf.shape) > 1 for leaf in found) > 1


def _are_counted(one: str, other: str) -> bool:
    """Return whether two names differ in numbers alone, or in the last letter: `block2.f` and `block3.f`, `rnn_a` and `rnn_b`."""
    return one[:-1] == other[:-1] or _NUMBER.sub("", one) == _NUMBER.sub("", other)


def _is_called_like(part: str, home: str, twin: str, place: str) -> bool:
    """Return whether the home has more of the words that tell a part from its twin than of those that tell the twin from the part.

    Words that the twin shares with its own place say nothing of the home. Where the part has none of its own, as `head` beside
    `aux_head`: whether the home has all of its words, and not the twin's.
    """
    own, other, there = _words(part, [twin]), _words(twin, [part]), _words(home, [place])
    if own <= other:
        return own <= there and not other <= there
    return _common(own - other, there) > _common(other - own - _words(place, [twin]), there)


def _common(some: Iterable[str], others: Iterable[str]) -> int:
    """Return how many words are among others, maybe shortened here or there."""
    return sum(any(is_short_for(a, b) or is_short_for(b, a) for b in others) for a in some)


def _words(path: str, among: Iterable[str]) -> set[str]:
    """Return the words of a path, without those of the modules that others lie in, too."""
    at = min([path.count("."), *(min(len(_common_start(path, other)), other.count(".")) for other in among)])
    return {*canonical(".".join(path.split(".")[at:]))}
