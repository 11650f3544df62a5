"""Who feeds whom: names first, then order, shapes and neighbours; every claim with its ground and how sure it is.

`match` reads the file's names as the model spells them, and lets names decide where they leave no question open
(`names_alone`). Else `by_structure` groups tensors into units, scores all pairs of them, assigns, and doubts. What is free on
both sides at last is completed.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.plan import Certainty, Why
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.matching.alike import alike
from torchgraft.matching.completing.copies import with_copies
from torchgraft.matching.completing.joined import with_layers_joined
from torchgraft.matching.completing.leftovers import with_leftovers
from torchgraft.matching.completing.said import as_said, displaced
from torchgraft.matching.completing.shared import with_shared
from torchgraft.matching.names.lists import is_numbered, is_one_path
from torchgraft.matching.names.naming import Naming
from torchgraft.matching.names.prefixes import naming_of
from torchgraft.matching.names.rules import Rules
from torchgraft.matching.names.second_names import by_telling_names, second_names
from torchgraft.matching.names.sections import averaged_beside, keep_part, without_averages
from torchgraft.matching.names.spelling import as_dotted, as_spelled
from torchgraft.matching.names_alone import by_names
from torchgraft.matching.parts.leaves import as_stored, source_leaves, target_leaves, with_classes
from torchgraft.matching.ranks import join_ranks
from torchgraft.matching.reviewing import Finished, reviewed
from torchgraft.matching.select import (
    choose,
    has_network,
    listed_networks,
    only,
    place_of,
    require_weights,
)
from torchgraft.matching.source_model import in_order, origin_of
from torchgraft.matching.tables.rotary import with_rotary
from torchgraft.matching.tables.stated import NOTHING, Models, Stated

log = logging.getLogger("torchgraft")

__all__ = [
    "Known",
    "Models",
    "Rules",
    "Stated",
    "alike",
    "averaged_beside",
    "choose",
    "has_network",
    "join_ranks",
    "keep_part",
    "listed_networks",
    "match",
    "only",
    "origin_of",
    "place_of",
    "require_weights",
]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of names of the file: those that the model's own loading code gives to old keys, and second names.

    `same` maps a key to the first one of the same tensor; `started` are slots that start as the caller said.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    started: Container[str] = ()


def match(
    specs: Mapping[str, TensorSpec],
    models: Models,
    rules: Rules,
    *,
    prefer: str | None = None,
    filled: Container[str] = (),
    known: Known | None = None,
) -> Matching:
    """Return who feeds whom.

    Names decide when they agree on everything: no shape contradicts them, but for tensors that fit nowhere else, and only
    one side has anything left, or one has fused what the other has apart. Else names are evidence among others, and the two
    sequences are aligned as a whole. `prefer` names the part of the state dict to take (a segment of its keys); the rest
    then serves only buffers that the part lacks. Slots in `filled` are filled by other means. `known` is what is
    known of the file's names, and of slots.
    """
    names = [name for slot in models.target.slots for name in slot.names]
    known = known or Known()
    asked = rules
    rules, notes = rules.checked(list(specs), names, known.renamed)
    inside, outside = keep_part(specs, prefer)
    averages: list[str] = []
    if prefer is None and not (rules.rename or rules.fan_out or known.renamed):
        inside, averages = without_averages(specs, names)
    leaves = by_telling_names(_targets(models), {key: spec.shape for key, spec in specs.items()})
    leaves = [leaf for leaf in leaves if not any(key in filled for key in leaf.keys)]
    kept = [leaf for leaf in leaves if _is_kept(leaf, (asked, rules), known)]
    names_kept = {leaf.name for leaf in kept}
    targets = [leaf for leaf in leaves if leaf.name not in names_kept] if kept else leaves
    given = Given(specs, rules, models, known, kept)
    found = _match_part(in_order(list(inside), models.source), targets, given)
    if averages:
        found = _merged(found, _match_part(averages, (), given))
    if outside:
        open_buffers = [leaf for leaf in found.free_targets if leaf.is_buffer]
        rest = _match_part(outside, open_buffers, replace(given, models=replace(models, stated=NOTHING), kept=()))
        found = _merged(found, rest)
    found = with_copies(found, models.target.slots, lambda leaf: _reserved(leaf, rules))
    if rules.says_something:
        spoken = {key for key in specs if rules.speak_of(key, key)}
        if any(_is_called_otherwise(m) and spoken.isdisjoint(m.source.keys) for m in found.matches):
            plain = match(specs, models, Rules(), prefer=prefer, filled=filled, known=replace(known, started=()))
            found = displaced(found, plain, spoken, kept)
    return replace(found, notes=(*found.notes, *notes)) if notes else found


def _is_kept(leaf: Leaf, rules: Iterable[Rules], known: Known) -> bool:
    """Whether the caller wants nothing of the file in a place; `layers` may give lists their paths in the model, or in the file."""
    return any(
        _reserved(leaf, one) or any(key in known.started or one.is_behind_picks(key) for key in leaf.keys)
        for one in rules
    )


def _is_called_otherwise(found: Match) -> bool:
    """Whether the names of a pair that isn't in doubt differ by more than what stands before them."""
    return found.certainty is not Certainty.DOUBT and not is_one_path(found.source.keys[0], found.target.keys[0])


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller gave, the same for every part of the file; `kept` is what of the model nothing of the file may fill."""

    specs: Mapping[str, TensorSpec]
    rules: Rules
    models: Models
    known: Known
    kept: Sequence[Leaf] = ()


def _match_part(part: Sequence[str], targets: Sequence[Leaf], given: Given) -> Matching:
    names = {name for leaf in targets for name in (leaf.name, *leaf.also)}
    ruled = given.rules.present_once(part, names)
    plain = as_dotted([name for name, _ in ruled], names)
    named = [given.known.renamed.get(name, one) for (name, _), one in zip(ruled, plain, strict=True)]
    shown = as_spelled(named, names, (key for leaf in targets for key in leaf.keys))
    keys = {name: key for name, (_, key) in zip(shown, ruled, strict=True)}
    renamed_by = {
        new: "user rule" if name != key else "load hook" if name in given.known.renamed else "spelling"
        for new, (name, key) in zip(shown, ruled, strict=True)
        if new != key
    }
    fewer = _without_second_names(keys, targets, given) if given.known.same else keys
    found = _matched(fewer, targets, given, renamed_by)
    if len(fewer) == len(keys) or not _may_take(
        found.free_targets, [given.specs[keys[n]] for n in keys.keys() - fewer]
    ):
        return found
    whole = _matched(keys, targets, given, renamed_by)
    taken = max(found, whole, key=_filled)
    log.debug(
        "without second names of tensors %d elements are filled, with them %d: taken %s them",
        _filled(found), _filled(whole), "without" if taken is found else "with",
    )  # fmt: skip
    return taken


def _without_second_names(keys: Mapping[str, str], targets: Sequence[Leaf], given: Given) -> Mapping[str, str]:
    """Return the names to match by, where several are the same tensor; what rules say of one is meant."""
    firsts: dict[str, str] = {}
    same = {name: firsts.setdefault(given.known.same.get(key, key), name) for name, key in keys.items()}
    if len(firsts) == len(keys):
        return keys
    shapes = {name: given.specs[key].shape for name, key in keys.items()}
    leaves, _ = _sources(keys, given, {leaf.name: leaf.shape for leaf in targets})
    ruled = {name for name, key in given.rules.present(list(keys.values())) if name != key}
    naming = naming_of(leaves, targets)
    if naming.rivals and _are_apart(naming, same, shapes):
        return keys  # what two networks of the file share belongs to both
    paired = {*naming.pairs, *ruled}
    out = second_names(shapes, same, paired, targets)
    return {name: key for name, key in keys.items() if name not in out}


def _are_apart(naming: Naming, same: Mapping[str, str], shapes: Mapping[str, Shape]) -> bool:
    """Return whether parts of the file that fit the same slots hold other tensors, not the same ones under other names.

    Their matrices tell: counters and vectors of nothing but zeros or ones are equal by chance, and never called the same.
    """
    chosen = naming.prefixes[0].old
    ends = [name[len(chosen) :] for name in same if name.startswith(chosen) and len(shapes[name]) > 1]
    return any(same[chosen + end] != same.get(rival + end) for rival in naming.rivals for end in ends)


def _may_take(free: Iterable[Leaf], specs: Iterable[TensorSpec]) -> bool:
    """Return whether something that stays free has the size of one of the tensors."""
    sizes = {spec.numel for spec in specs}
    return any(leaf.numel in sizes for leaf in free)


def _filled(matching: Matching) -> int:
    return sum(m.target.numel for m in matching.matches)


def _matched(keys: Mapping[str, str], targets: Sequence[Leaf], given: Given, renamed_by: Mapping[str, str]) -> Matching:
    """Return the matching of the tensors that `keys` tells by the names to match by; `renamed_by` tells what made names others."""
    sources, derived = _sources(keys, given, {leaf.name: leaf.shape for leaf in targets})
    naming = _naming(sources, targets, keys, given)
    kept = {leaf.name for leaf in given.kept}
    spoken = {a for a, b in naming.pairs.items() if b in kept}
    if spoken:
        naming = replace(naming, pairs={a: b for a, b in naming.pairs.items() if a not in spoken})
    left_out = [leaf for leaf in sources if leaf.name in spoken]
    sources = [leaf for leaf in sources if leaf.name not in spoken] if spoken else sources
    matching = None if given.models.stated.layouts else by_names(sources, targets, naming, given.models)
    ground = "order, shapes and neighbours" if matching is None else "names alone"
    log.debug("%d tensors of the file, %d of the model: matched by %s", len(sources), len(targets), ground)
    if matching is None:
        from torchgraft.matching.structure import by_structure  # numpy: only where names leave a question open

        matching = by_structure(sources, targets, naming, given.models)
        matching = as_said(matching, naming.said, (sources, targets), given.rules)
    matching = with_leftovers(with_layers_joined(with_shared(matching)))
    finished = Finished(
        matching=matching, sides=(sources, targets), naming=naming, keys=keys.values(), models=given.models
    )
    matching = reviewed(finished)
    if left_out:
        matching = replace(matching, free_sources=(*matching.free_sources, *left_out))
    return replace(
        _under_own_keys(matching, keys, renamed_by),
        derived={keys[k]: keys[v] for k, v in derived.items()},
        chosen=naming.prefixes[0][0] if naming.prefixes else "",
        rivals=naming.rivals,
        homes=naming.homes,
    )


def _naming(sources: Sequence[Leaf], targets: Sequence[Leaf], keys: Mapping[str, str], given: Given) -> Naming:
    """Return what names pair; what the caller's rules call as a tensor of the model goes there, whatever else could.

    The places that are kept count as well: a tensor of the file that is called as one of them belongs to it, and nowhere else.
    A number in a list may mean another member, though.
    """
    every = [*targets, *(leaf for leaf in given.kept if not is_numbered(leaf.name))]
    naming = naming_of(sources, every)
    names = {name: leaf.name for leaf in every for name in (leaf.name, *leaf.also)}
    speak_of = given.rules.speak_of
    said = {
        leaf.name: names[leaf.name]
        for leaf in sources
        if leaf.name in names and all(speak_of(keys[name], name) for name in leaf.keys)
    }
    if not all(naming.pairs.get(name) == to for name, to in said.items()):
        naming = naming_of(sources, every, said)
    return replace(naming, said=said)


def _targets(models: Models) -> list[Leaf]:
    """Return the leaves of the model, with what its classes and names tell of their rows."""
    leaves = with_classes(target_leaves(models.target.slots), models.target.classes, {})
    return with_rotary(leaves, lambda path: models.stated.heads or models.target.heads_at(path))


def _sources(keys: Mapping[str, str], given: Given, held: Mapping[str, Shape]) -> tuple[list[Leaf], dict[str, str]]:
    """Return the leaves of the file by the names to match by, with what their own names tell, and its derived keys."""
    classes = given.models.source.classes if given.models.source else {}
    kinds = {_owner(name): classes.get(_owner(key), "") for name, key in keys.items()} if classes else None
    shown = {name: given.specs[key] if name == key else _renamed(given.specs[key], name) for name, key in keys.items()}
    sources, derived = source_leaves(shown, kinds, held)
    sources = with_classes(sources, classes, keys)
    is_moved = list(keys) != list(keys.values())
    paths = [as_stored(leaf, keys) for leaf in sources] if is_moved else None
    heads = given.models.stated.heads
    return with_rotary(sources, lambda path: heads or given.models.source_heads(path), paths), derived


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _renamed(spec: TensorSpec, name: str) -> TensorSpec:
    return spec if spec.name == name else replace(spec, name=name)


def _reserved(leaf: Leaf, rules: Rules) -> bool:
    """Whether the caller said that nothing of the file fills a leaf: behind what `layers` picks no other rule leads."""
    if not (rules.fresh or rules.zero or rules.layers):
        return False
    names = (*leaf.keys, *leaf.also)
    return any(rules.is_fresh(name) or rules.is_zero(name) or rules.is_behind_picks(name) for name in names)


def _under_own_keys(matching: Matching, keys: Mapping[str, str], renamed_by: Mapping[str, str]) -> Matching:
    """Put the file's own keys back in place of the names to match by."""

    def own(leaf: Leaf) -> Leaf:
        return (
            leaf if renamed_by.keys().isdisjoint(leaf.keys) else replace(leaf, keys=tuple(keys[k] for k in leaf.keys))
        )

    matches = tuple(
        m
        if renamed_by.keys().isdisjoint(m.source.keys)
        else replace(m, source=own(m.source), why=_renamed_why(m, keys, renamed_by))
        for m in matching.matches
    )
    used = {k for m in matches for k in m.source.keys}
    free = tuple(own(leaf) for leaf in matching.free_sources)
    free = tuple(leaf for leaf in free if not used.issuperset(leaf.keys))
    return replace(matching, matches=matches, free_sources=free)


def _renamed_why(found: Match, keys: Mapping[str, str], renamed_by: Mapping[str, str]) -> Why:
    """Return the reason, with the new name where a rule of the caller, a load hook or another spelling gave the key another."""
    name = next(k for k in found.source.keys if k in renamed_by)
    old, new = _without_common_end(keys[name], name)
    return replace(found.why, rule=renamed_by[name], text=f"{old} read as {new}; {found.why.text}")


def _without_common_end(a: str, b: str) -> tuple[str, str]:
    """Return both names without the last segments that they share, so that a module's tensors all say the same."""
    one, other = a.split("."), b.split(".")
    while len(one) > 1 and len(other) > 1 and one[-1] == other[-1]:
        del one[-1], other[-1]
    return ".".join(one), ".".join(other)


def _merged(first: Matching, second: Matching) -> Matching:
    fed = {m.target.name for m in second.matches}
    return replace(
        first,
        matches=(*first.matches, *second.matches),
        free_targets=tuple(leaf for leaf in first.free_targets if leaf.name not in fed),
        free_sources=(*first.free_sources, *second.free_sources),
        derived={**first.derived, **second.derived},
    )
