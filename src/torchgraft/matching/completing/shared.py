"""One source tensor for several places: what the file holds once and the model has in every block."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.names import DERIVED_ROLES, words
from torchgraft.core.plan import NO_DOUBT, Certainty, Doubt, Why
from torchgraft.core.specs import Shape
from torchgraft.matching.names.lists import (
    ListName,
    blocks_around,
    by_content,
    is_numbered,
    list_of,
    numbered,
    numbered_lists,
    place_of,
)
from torchgraft.matching.tables.dialect import ROLES

Kind = tuple[str, "Shape"]
# A place that all blocks of a list have: a path without its numbers, and what stands there.
Place = tuple[str, Kind]

SHORTER = Doubt(
    "shorter_list",
    "the file has one member of a list of which the model has several: it may be shared by all, or the list is shorter",
)

SEVERAL = Doubt(
    "one_for_several",
    "the file has this once where the model has several beside each other: it may be any of them, or the start of all, as "
    "when experts are made from one layer (fan_out={'mlp': ['mlp.experts.0', 'mlp.experts.1']} would fill two)",
)


def with_shared(matching: Matching) -> Matching:
    """Return the matching with tensors that the file shares sent to every block that has such a place.

    A tensor of its own kind of name (a table of relative positions, say), borne by a single source, goes to all blocks
    that want one. A source outside any list, or in one that goes to a single member as a whole, goes to the same place of the
    other members of the list that it goes to, when all of those are free: for sure only if the file doesn't number it, since
    a list of one may just be shorter.
    """
    shared = _shared_places(matching)
    if shared:
        explained = replace(matching, matches=tuple([_explained(m, shared) for m in matching.matches]))
        matching = explained.with_more(list(_by_role(matching, shared)))
    copies = _of_whole_layers(list(_by_list(matching)), matching)
    return _doubted(matching, copies).with_more(copies)


def _of_whole_layers(copies: Sequence[Match], matching: Matching) -> list[Match]:
    """Return the copies without biases for layers whose weight has no copy from the same layer: a norm behind a convolution."""
    weights = {
        leaf.owner for leaf in (*(m.target for m in matching.matches), *matching.free_targets) if _is_weight(leaf)
    }
    copied = {(copy.source.owner, copy.target.owner) for copy in copies if _is_weight(copy.target)}
    return [
        copy
        for copy in copies
        if ROLES.get(copy.target.role) != "bias"
        or copy.target.owner not in weights
        or (copy.source.owner, copy.target.owner) in copied
    ]


def _is_weight(leaf: Leaf) -> bool:
    return ROLES.get(leaf.role) == "weight"


def _doubted(matching: Matching, copies: Iterable[Match]) -> Matching:
    """Return the matching with those matches in doubt that are copied to places beside theirs that are as good."""
    several = {copy.source.name for copy in copies if copy.why.doubted_by == SEVERAL.rule}
    if not several:
        return matching
    matches = tuple(
        replace(m.in_doubt(SEVERAL), alternatives=()) if m.source.name in several else m for m in matching.matches
    )
    return replace(matching, matches=matches)


def _shared_places(matching: Matching) -> dict[Place, Leaf]:
    """Return the places that several blocks of a list have, each with the one source of its kind, which lies in no list."""
    wanting = [*(m.target for m in matching.matches if m.source.name != m.target.name), *matching.free_targets]
    several = Counter(map(_place, _of_own_kind(leaf for leaf in wanting if is_numbered(leaf.name))))
    kinds = {kind for (_, kind), count in several.items() if count > 1}  # of a number of a wrapper's there is but one
    if not kinds:
        return {}
    sources = {leaf.name: leaf for leaf in (*(m.source for m in matching.matches), *matching.free_sources)}
    bearers: dict[Kind, list[Leaf]] = defaultdict(list)
    for leaf in _of_own_kind(sources.values()):
        bearers[_kind(leaf)].append(leaf)
    alone = {kind: bearers[kind][0] for kind in kinds if len(bearers[kind]) == 1}
    return {
        place: alone[place[1]] for place, count in several.items()
        if count > 1 and place[1] in alone and not is_numbered(alone[place[1]].name)
    }  # fmt: skip


def _of_own_kind(leaves: Iterable[Leaf]) -> Iterator[Leaf]:
    """Return the leaves whose names say more than a role that every module has."""
    return (leaf for leaf in leaves if is_own_kind(leaf.role))


def is_own_kind(role: str) -> bool:
    """Return whether the last word of a name says more than what every module has, or what nobody needs to hear of."""
    return role not in ROLES and role not in DERIVED_ROLES


def _kind(leaf: Leaf) -> Kind:
    """Return the kind of name and shape; of tables of relative positions only the width counts: windows may differ."""
    said = words(leaf.role)
    table = len(leaf.shape) == 2 and "table" in said and ("relative" in said or "rel" in said)
    return (leaf.role, leaf.shape[1:] if table else leaf.shape)


def _place(leaf: Leaf) -> Place:
    return place_of(leaf.name), _kind(leaf)


def _by_role(matching: Matching, shared: Mapping[Place, Leaf]) -> Iterator[Match]:
    for leaf in matching.free_targets:
        source = shared.get(_place(leaf))
        if source is not None:
            yield Match(target=leaf, source=source, why=_why(source))


def _by_list(matching: Matching) -> Iterator[Match]:
    """Yield copies of sources outside lists for the free members of the list that their place is in."""
    if not matching.free_targets:
        return
    blocks_of = _blocks(matching)
    free: dict[tuple[str, str], list[Leaf]] = defaultdict(list)
    for leaf in matching.free_targets:
        for place in _places(leaf.name):
            free[place].append(leaf)
    left = {(place_of(leaf.name), leaf.shape) for leaf in matching.free_sources}
    filled = Counter(place for m in matching.matches for place in _places(m.target.name))
    done: set[str] = set()
    spans = _spans(matching, blocks_of)
    for found in matching.matches:
        if found.why.rule == Ground.SAME_NAME or (place_of(found.source.name), found.source.shape) in left:
            continue  # nor does what the file has under another number stand for all
        blocks = blocks_of[found.source.owner]
        for place in _places(found.target.name):
            if _is_same_list(found, place):
                continue  # one list under one name, shorter in the file
            inside = [block for block in blocks if not _is_around(block, place, spans)]
            around = {span for block in inside for span in spans[list_of(block)]}
            if not all(span.startswith(_member(found.target.name, place)) for span in around):
                continue  # a list of the file that goes to several members, and so may be the model's list
            siblings = [leaf for leaf in free.get(place, ()) if leaf.shape == found.target.shape]
            if filled[place] == 1 and siblings and not done & {leaf.name for leaf in siblings}:
                done |= {leaf.name for leaf in siblings}
                several = len(inside) < len(blocks) and not around
                shorter = is_numbered(blocks[0].rpartition(".")[0] if blocks else found.source.name)
                doubt = SEVERAL if several else SHORTER if shorter else NO_DOUBT
                yield from (_copied(found, leaf, doubt) for leaf in siblings)
                break


def _blocks(matching: Matching) -> Mapping[str, tuple[str, ...]]:
    """Return the members of numbered lists of the file around each module, outermost first."""
    sources = [*(m.source for m in matching.matches), *matching.free_sources]
    lists = numbered_lists(by_content({leaf.name: None for leaf in sources}))
    return blocks_around([leaf.owner for leaf in sources], lists)


def _is_same_list(found: Match, place: tuple[str, str]) -> bool:
    """Return whether the source stands at the same number of a list called alike, with the same in it."""
    ours, theirs = found.source.name.split("."), found.target.name.split(".")
    at = len(place[1].split(".")) + 1 if place[1] else 1
    return ours[-at - 1 :] == theirs[-at - 1 :] and len(ours) > at < len(theirs)


def _is_around(block: str, place: tuple[str, str], spans: Mapping[str | ListName, list[str]]) -> bool:
    """Return whether all of a member of a list of the file goes to one member of a list around the place."""
    parts = place[0].split(".")
    members = [".".join(parts[: at + 1]) + "." for at, part in enumerate(parts) if part.isdecimal()]
    return any(all(span.startswith(member) for span in spans[block]) for member in members)


def _spans(matching: Matching, blocks_of: Mapping[str, tuple[str, ...]]) -> Mapping[str | ListName, list[str]]:
    """Return where the tensors of each numbered list of the file, and of each of its members, go.

    "" stands for those that go nowhere.
    """
    spans: dict[str | ListName, list[str]] = defaultdict(list)
    ends = [(m.source, m.target.name) for m in matching.matches]
    ends += [(leaf, "") for leaf in matching.free_sources if leaf.role not in DERIVED_ROLES]
    for source, end in ends:
        for block in blocks_of[source.owner]:
            spans[list_of(block)].append(end)
            spans[block].append(end)
    return spans


def _member(name: str, place: tuple[str, str]) -> str:
    """Return the path, with its dot, of the member of a list that a name lies in: `before`, and the number."""
    _, after = place
    return name[: len(name) - len(after)] if after else name


def _copied(found: Match, target: Leaf, doubt: Doubt) -> Match:
    """Return a copy for another member of a list; `doubt` says what may be otherwise."""
    if found.certainty is Certainty.DOUBT and not doubt:
        doubt = Doubt(found.why.doubted_by, found.why.doubt)
    certainty = Certainty.DOUBT if doubt or found.certainty is Certainty.DOUBT else Certainty.LIKELY
    return Match(target=target, source=found.source, why=_why(found.source).in_doubt(doubt), certainty=certainty)


def _places(name: str) -> list[tuple[str, str]]:
    """Return (path before, path after) for each number in a name: the place that members of a list share."""
    return [(before, after) for before, _, after in numbered(name)]


def _why(source: Leaf) -> Why:
    return Why(Ground.SHARED, f"{source.name} is there once in the file, the model has one per block")


def _explained(found: Match, shared: Mapping[Place, Leaf]) -> Match:
    source = shared.get(_place(found.target))
    if source is None or source.keys != found.source.keys:
        return found
    return Match(target=found.target, source=source, why=_why(source))
