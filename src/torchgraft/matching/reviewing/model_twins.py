"""Parts of the model of one build, of which the file has but one: names must say which of them it fills."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torchgraft.core.match import Match, Matching
from torchgraft.core.names import EMA_SEGMENTS, above
from torchgraft.core.specs import Shape
from torchgraft.matching.names.lists import is_numbered, is_one_path
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import flat_class
from torchgraft.matching.reviewing.finished import Finished

EITHER = "{1} of the model is of the same build as {0} and stays free, and no name says which of the two it is"

# A part has so many tensors at least; so much of one must be found in the other, by shape and by name, and be free there.
PART, ALIKE, NAMED, FREE = 6, 0.8, 0.5, 0.8


def beside_free_copies(finished: Finished) -> dict[str, str]:
    """Return the slots in doubt of a part of the model beside which a free one has all of its kinds of tensors.

    Mostly a network is changed where it is trained, and its average, its target network or its second tower is left as it
    was. That a file has all names of the copy doesn't say that it is meant for the copy alone.
    """
    if finished.naming.homes or len(finished.matching.free_targets) < PART:
        return {}
    return dict(_doubted(finished.matching))


@dataclass(frozen=True, slots=True)
class Module:
    """A part of the model: the shapes of its tensors by the paths within, and those of them that something feeds."""

    path: str
    held: dict[str, Shape] = field(default_factory=dict)
    fed: dict[str, Match] = field(default_factory=dict)

    @property
    def is_free(self) -> bool:
        """Whether nearly nothing of it is fed."""
        return len(self.fed) <= (1 - FREE) * len(self.held)


def _doubted(matching: Matching) -> Iterator[tuple[str, str]]:
    """Yield the slots in doubt, each with the reason."""
    for siblings in _side_by_side(matching).values():
        for free in siblings if len(siblings) > 1 else ():
            for part in siblings if free.is_free else ():
                if not part.is_free and _are_of_one_build(part, free):
                    for found in _untold(part, free):
                        yield found.target.name, EITHER.format(part.path, free.path)


def _side_by_side(matching: Matching) -> Mapping[str, Sequence[Module]]:
    """Return the parts of the model outside of lists, by the module that they lie in."""
    found: dict[str, Module] = {}
    fed = {m.target.name: m for m in matching.matches}
    for leaf in (*(m.target for m in matching.matches), *matching.free_targets):
        for path in above(leaf.name):
            if not is_numbered(path):
                module = found.setdefault(path, Module(path))
                inside = leaf.name[len(path) + 1 :]
                module.held[inside] = leaf.shape
                if leaf.name in fed:
                    module.fed[inside] = fed[leaf.name]
    around: dict[str, list[Module]] = defaultdict(list)
    for path, module in found.items():
        if len(module.held) >= PART:
            around[path.rpartition(".")[0]].append(module)
    return around


def _are_of_one_build(part: Module, other: Module) -> bool:
    """Return whether the other part has all kinds of tensors of the first, nearly as many, and mostly under the same names.

    Of an average one knows what it is a copy of: there most is enough.
    """
    ours, theirs = (Counter(map(flat_class, module.held.values())) for module in (part, other))
    both = (ours & theirs).total()
    if _is_average(part.path):
        return 2 * both > ours.total()
    named = len(part.held.keys() & other.held.keys())
    return ours.keys() <= theirs.keys() and both >= ALIKE * ours.total() and named >= NAMED * len(part.held)


def _is_average(path: str) -> bool:
    return not EMA_SEGMENTS.isdisjoint(path.split("."))


def _untold(part: Module, other: Module) -> Iterator[Match]:
    """Yield what feeds a part from where no word says that it is this part and not the other."""
    own = _words(part.path) - _words(other.path)
    for inside, found in part.fed.items():
        name = found.source.name
        origin = name[: -len(inside)].rstrip(".") if name.endswith(inside) else found.source.owner
        if not (origin and is_one_path(origin, part.path)) and not (own and own <= _words(origin)):
            yield found


def _words(path: str) -> set[str]:
    return set(canonical(path))
