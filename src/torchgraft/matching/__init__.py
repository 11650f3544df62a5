"""Who feeds whom: names first, then order, shapes and neighbours; every claim with its ground and how sure it is."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.names import DERIVED_ROLES
from torchgraft.core.plan import Why
from torchgraft.core.specs import Shape, Target, TensorSpec
from torchgraft.core.system.objects import maker
from torchgraft.matching.alike import alike
from torchgraft.matching.completing.alone import with_lone_ones
from torchgraft.matching.completing.broadcast import spread
from torchgraft.matching.completing.copies import with_copies
from torchgraft.matching.completing.exchanged import with_crossings_doubted, with_exchanges_doubted
from torchgraft.matching.completing.homes import with_strays_doubted
from torchgraft.matching.completing.leftovers import with_leftovers
from torchgraft.matching.completing.united import united
from torchgraft.matching.completing.whole import questioned, uncut
from torchgraft.matching.names.cased import recased
from torchgraft.matching.names.chunks import unchunked
from torchgraft.matching.names.lists import lacks_its_first
from torchgraft.matching.names.prefixes import Naming, by_name
from torchgraft.matching.names.rules import Rules
from torchgraft.matching.names.sections import averaged_beside, keep_part, without_averages
from torchgraft.matching.names.undotted import dotted, respelled, restored
from torchgraft.matching.origin import in_order, origin_of
from torchgraft.matching.parallel import join_ranks
from torchgraft.matching.parts.leaves import (
    as_stored,
    copy_leaves,
    source_leaves,
    target_leaves,
    unfolded,
    with_classes,
)
from torchgraft.matching.parts.named_parts import pairs_of_parts, reason_of_part
from torchgraft.matching.parts.resized import have_nowhere_else
from torchgraft.matching.parts.units import flat_class, shape_class
from torchgraft.matching.select import (
    choose,
    has_network,
    listed_networks,
    only,
    place_of,
    require_weights,
)
from torchgraft.matching.tables.dialect import VARIANCES
from torchgraft.matching.tables.packing import packed_otherwise
from torchgraft.matching.tables.rotary import with_rotary
from torchgraft.matching.tables.stated import LAYOUTS, NOTHING, Models, Stated

__all__ = [
    "LAYOUTS",
    "Models",
    "Rules",
    "Stated",
    "alike",
    "averaged_beside",
    "choose",
    "has_network",
    "join_ranks",
    "listed_networks",
    "match",
    "only",
    "origin_of",
    "place_of",
    "require_weights",
]


_make_match = maker(Match)


def match(
    specs: Mapping[str, TensorSpec],
    models: Models,
    rules: Rules,
    *,
    prefer: str | None = None,
    settled: Container[str] = (),
    renamed: Mapping[str, str] | None = None,
) -> Matching:
    """Return who feeds whom.

    Names decide when they agree on everything: no shape contradicts them, but for tensors that fit nowhere else, and only
    one side has anything left, or both have the same but that one has fused what the other has apart. Else names are evidence among others, and the two sequences are aligned as a whole. `prefer`
    names the part of the state dict to take (a segment of its keys); the rest then serves only buffers that the part lacks.
    Slots in `settled` are filled by other means. `renamed` are names that the model's own loading code gives to old keys.
    """
    if rules.layers:
        rules = rules.in_the_file(list(specs), _names(models.target))
    rules.check(list(specs))
    notes: tuple[str, ...] = ()
    if rules.fresh or rules.zero or rules.layers or rules.copies:
        rules.check_slots(_names(models.target))
    if rules.rename or rules.fan_out:
        known = _names(models.target)
        notes = rules.astray(list(specs), [*known, *(renamed or {})])
    inside, outside = keep_part(specs, prefer)
    averages: list[str] = []
    if prefer is None and not (rules.rename or rules.fan_out or renamed):
        inside, averages = without_averages(specs, _names(models.target))
    targets = with_classes(target_leaves(models.target.slots), models.target.classes, {})
    targets = with_rotary(targets, lambda path: models.stated.heads or models.target.heads_at(path))
    if rules.fresh or rules.zero or rules.layers or rules.copies:
        targets = [leaf for leaf in targets if not _reserved(leaf, rules)]
    targets = [leaf for leaf in targets if not any(key in settled for key in leaf.keys)]
    given = Given(specs, rules, renamed or {}, models)
    found = _match_part(in_order(list(inside), models.source), targets, given)
    if averages:
        found = _merged(found, _match_part(averages, (), given))
    if outside:
        open_buffers = [leaf for leaf in found.free_targets if leaf.is_buffer]
        rest = _match_part(outside, open_buffers, replace(given, models=replace(models, stated=NOTHING)))
        found = _merged(found, rest)
    found = with_copies(found, copy_leaves(models.target.slots), lambda leaf: _reserved(leaf, rules))
    return replace(found, notes=(*found.notes, *notes)) if notes else found


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller gave, the same for every part of the file."""

    specs: Mapping[str, TensorSpec]
    rules: Rules
    renamed: Mapping[str, str]
    models: Models


def _match_part(part: Sequence[str], targets: Sequence[Leaf], given: Given) -> Matching:
    names = {name for leaf in targets for name in (leaf.name, *leaf.also)}
    shown = [(given.renamed.get(name, dotted(name)), key) for name, key in given.rules.present_once(part, names)]
    back = recased([name for name, _ in shown], (key for leaf in targets for key in leaf.keys))
    shown = [(back.get(name, name), key) for name, key in shown] if back else shown
    spelled = {unfolded(name): name for name, _ in shown}  # `in_proj_weight` lacks no dot
    back = restored([name for name, _ in shown], {spelled.get(name, name) for name in names})
    shown = [(back.get(name, name), key) for name, key in shown]
    back = unchunked([name for name, _ in shown], list(names))
    shown = [(back.get(name, name), key) for name, key in shown] if back else shown
    back = respelled([name for name, _ in shown], names)
    keys = {back.get(name, name): key for name, key in shown}
    sources, derived = _sources(keys, given, {leaf.name: leaf.shape for leaf in targets})
    naming = by_name(sources, targets)
    stated = given.models.stated.layouts
    matching = None if stated else _settled(sources, targets, naming, given.models)
    if matching is None:
        from torchgraft.matching.structure import by_structure  # numpy: only where names leave a question open

        matching = by_structure(sources, targets, naming, given.models)
    matching = questioned(with_lone_ones(united(with_leftovers(spread(matching)))), (sources, targets), given.models)
    matching = with_strays_doubted(with_crossings_doubted(with_exchanges_doubted(matching, sources, naming)))
    matching = uncut(matching, sources, given.models)
    return _under_own_keys(matching, keys, derived, naming)


def _sources(keys: Mapping[str, str], given: Given, held: Mapping[str, Shape]) -> tuple[list[Leaf], dict[str, str]]:
    """Return the leaves of the file by the names to match by, with what their own names tell, and its derived keys."""
    classes = given.models.source.classes if given.models.source else {}
    kinds = {_owner(name): classes.get(_owner(key), "") for name, key in keys.items()} if classes else None
    shown = {name: _renamed(given.specs[key], name) for name, key in keys.items()}
    sources, derived = source_leaves(shown, kinds, held)
    sources = with_classes(sources, classes, keys)
    paths = [as_stored(leaf, keys) for leaf in sources]
    heads = given.models.stated.heads
    return with_rotary(sources, lambda path: heads or given.models.source_heads(path), paths), derived


def _names(target: Target) -> list[str]:
    return [name for slot in target.slots for name in slot.names]


def _owner(name: str) -> str:
    return name.rpartition(".")[0]


def _renamed(spec: TensorSpec, name: str) -> TensorSpec:
    return spec if spec.name == name else replace(spec, name=name)


def _reserved(leaf: Leaf, rules: Rules) -> bool:
    return any(rules.is_fresh(name) or rules.is_zero(name) for name in (*leaf.keys, *leaf.also))


def _settled(sources: Sequence[Leaf], targets: Sequence[Leaf], naming: Naming, models: Models) -> Matching | None:
    """Return the matching by names alone, or None where it would leave a question open."""
    wanted = {leaf.name: leaf for leaf in targets}
    pairs = [(leaf, wanted[naming.pairs[leaf.name]]) for leaf in sources if leaf.name in naming.pairs]
    taken = set(naming.pairs.values())
    free_sources = [leaf for leaf in sources if leaf.name not in naming.pairs]
    free_targets = [leaf for leaf in targets if leaf.name not in taken]
    left = [any(not harmless(leaf) for leaf in free) for free in (free_sources, free_targets)]
    parts: list[tuple[Leaf, Leaf]] = []
    if all(left):
        free, is_plain = (free_sources, free_targets), naming.is_plain and not models.stated.heads
        parts = pairs_of_parts(free, (sources, targets), models, naming.prefixes[0]) if is_plain else []
        if not parts:
            return None
        free_sources, free_targets = [], []
    if _of_other_kinds(pairs, sources, targets) or packed_otherwise(pairs, sources, targets):
        return None
    unlike = [(a, b) for a, b in pairs if not _same_elements(a, b)]
    if unlike and (
        any(left) or not have_nowhere_else(unlike, ([a.shape for a, _ in pairs], [b.shape for _, b in pairs]))
    ):
        return None
    if _lacks_its_first([a for a, _ in pairs], free_sources) or _lacks_its_first([b for _, b in pairs], free_targets):
        return None
    return Matching(
        matches=(
            *(
                _make_match(target=b, source=a, why=naming.reason(a, b), certainty=naming.certainty(a))
                for a, b in pairs
            ),
            *(_make_match(target=b, source=a, why=reason_of_part(a, b)) for a, b in parts),
        ),
        free_targets=tuple(free_targets),
        free_sources=tuple(free_sources),
    )


def _lacks_its_first(paired: Sequence[Leaf], free: Sequence[Leaf]) -> bool:
    return bool(free) and lacks_its_first([leaf.name for leaf in paired], [leaf.name for leaf in free])


def _of_other_kinds(pairs: Sequence[tuple[Leaf, Leaf]], sources: Sequence[Leaf], targets: Sequence[Leaf]) -> bool:
    """Whether a name means a norm with statistics on one side and something without on the other."""
    ours, theirs = ({leaf.owner for leaf in side if leaf.role in VARIANCES} for side in (sources, targets))
    return bool(ours or theirs) and any((a.owner in ours) != (b.owner in theirs) for a, b in pairs)


def _same_elements(a: Leaf, b: Leaf) -> bool:
    return (
        a.shape == b.shape or shape_class(a.shape) == shape_class(b.shape) or flat_class(a.shape) == flat_class(b.shape)
    )


def harmless(leaf: Leaf) -> bool:
    """Whether the tensor holds no knowledge: a counter, an index, a mask."""
    return leaf.role in DERIVED_ROLES


def _under_own_keys(
    matching: Matching, keys: Mapping[str, str], derived: Mapping[str, str], naming: Naming
) -> Matching:
    """Put the file's own keys back in place of the names that rules gave them."""
    moved = {name for name, key in keys.items() if name != key}

    def own(leaf: Leaf) -> Leaf:
        return leaf if moved.isdisjoint(leaf.keys) else replace(leaf, keys=tuple(keys[k] for k in leaf.keys))

    matches = tuple(
        m if moved.isdisjoint(m.source.keys) else replace(m, source=own(m.source), why=_ruled(m, keys))
        for m in matching.matches
    )
    used = {k for m in matches for k in m.source.keys}
    free = tuple(own(leaf) for leaf in matching.free_sources)
    return Matching(
        matches=matches,
        free_targets=matching.free_targets,
        free_sources=tuple(leaf for leaf in free if not used.issuperset(leaf.keys)),
        derived={keys[k]: keys[v] for k, v in derived.items()},
        chosen=naming.prefixes[0][0] if naming.prefixes else "",
        rivals=naming.rivals,
        homes=naming.homes,
        blocked=matching.blocked,
        notes=matching.notes,
    )


def _ruled(found: Match, keys: Mapping[str, str]) -> Why:
    """Return the reason, with the new name where a rule, a load hook or lost dots gave the key another."""
    name = next(k for k in found.source.keys if keys[k] != k)
    old, new = _without_common_end(keys[name], name)
    return replace(found.why, rule="user rule", text=f"{old} read as {new}; {found.why.text}")


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
