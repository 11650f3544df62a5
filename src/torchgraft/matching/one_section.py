"""One section of a file against the places of the model that are open to it.

`matched` is the flow: both sides are read, paired by their names alone or else by all the evidence, completed by what is left
free on both, and reviewed. Before it stand the names to match by, and the question which of a tensor's names to leave out.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torchgraft.core.match import Leaf, Matching
from torchgraft.core.registration import as_registered
from torchgraft.core.specs import Shape, Target, TensorSpec
from torchgraft.matching.completing.joined import with_layers_joined
from torchgraft.matching.completing.leftovers import with_leftovers
from torchgraft.matching.completing.replaced import without_replaced
from torchgraft.matching.completing.said import as_said
from torchgraft.matching.completing.shared import with_shared
from torchgraft.matching.names.lists import is_numbered
from torchgraft.matching.names.naming import Naming
from torchgraft.matching.names.prefixes import naming_of
from torchgraft.matching.names.read_names import ReadNames, read_names
from torchgraft.matching.names.said import Said
from torchgraft.matching.names.second_names import second_names
from torchgraft.matching.names_alone import by_names
from torchgraft.matching.parts.sides import sources_of
from torchgraft.matching.reviewing import Finished, reviewed
from torchgraft.matching.tables.stated import Models

log = logging.getLogger("torchgraft")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of names of the file: those that the model's own loading code gives to old keys, and second names.

    `same` leads from a key to the first one of the same tensor. `placed` are keys that have a place already, ahead of matching.
    """

    renamed: Mapping[str, str] = field(default_factory=dict)
    same: Mapping[str, str] = field(default_factory=dict)
    placed: Collection[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What is the same for all sections: the file's tensors, the models, what the caller says, what is known of names."""

    specs: Mapping[str, TensorSpec]
    models: Models
    said: Said
    known: Known


@dataclass(frozen=True, slots=True, kw_only=True)
class BothSides:
    """Both sides as leaves, what names pair, and what the caller says of that.

    `left_out` are tensors of the file that belong to places which the caller keeps for something else, `derived` the names of
    those that are made of others, with the names of these.
    """

    sources: Sequence[Leaf]
    targets: Sequence[Leaf]
    naming: Naming
    said: Said
    left_out: Sequence[Leaf]
    derived: Mapping[str, str]


def match_section(keys: Sequence[str], places: Sequence[Leaf], common: Common) -> Matching:
    """Return who feeds whom, of some keys of the file and places of the model.

    Where a tensor has several names, it is matched by the ones that say most, and by all of them where that fills more.
    """
    kept = [leaf for leaf in places if common.said.keeps(leaf)]
    targets = [leaf for leaf in places if not common.said.keeps(leaf)] if kept else places
    read = read_names(keys, targets, common.said.rules, common.known.renamed)
    fewer = _without_second_names(read, targets, common) if common.known.same else read
    found = matched(fewer, targets, kept, common)
    gone = [common.specs[key] for name, key in read.keys.items() if name not in fewer.keys]
    if not gone or not _may_take(found.free_targets, gone):
        return found
    whole = matched(read, targets, kept, common)
    taken = max(found, whole, key=_filled)
    log.debug(
        "without second names of tensors %d elements are filled, with them %d: taken %s them",
        _filled(found), _filled(whole), "without" if taken is found else "with",
    )  # fmt: skip
    return taken


def matched(read: ReadNames, targets: Sequence[Leaf], kept: Sequence[Leaf], common: Common) -> Matching:
    """Return who feeds whom, of the tensors that have these names and the `targets`; `kept` are other places of the model."""
    sides = _both_sides(read, targets, kept, common)
    found = _paired(sides, read, common)
    found = _completed(found, sides)
    found = _reviewed(found, sides, read, common.models)
    return read.back(_with_facts(found, sides))


def _both_sides(read: ReadNames, targets: Sequence[Leaf], kept: Sequence[Leaf], common: Common) -> BothSides:
    """Return both sides; what the caller's rules call as a tensor of the model goes there, whatever else could.

    The places that are kept count as well: a tensor of the file that is called as one of them belongs to it, and nowhere else.
    A number in a list may mean another member, though.
    """
    sources, derived = sources_of(read.keys, common.specs, common.models, {leaf.name: leaf.shape for leaf in targets})
    every = [*targets, *(leaf for leaf in kept if not is_numbered(leaf.name))]
    naming, said = naming_of(sources, every), common.said.with_pairs(sources, every, read.keys)
    if not all(naming.pairs.get(name) == to for name, to in said.pairs.items()):
        naming = naming_of(sources, every, said.pairs)
    names_kept = {leaf.name for leaf in kept}
    out = {name for name, to in naming.pairs.items() if to in names_kept}
    if out:
        naming = replace(naming, pairs={name: to for name, to in naming.pairs.items() if name not in out})
    return BothSides(
        sources=[leaf for leaf in sources if leaf.name not in out] if out else sources,
        targets=targets,
        naming=naming,
        said=said,
        left_out=[leaf for leaf in sources if leaf.name in out],
        derived=derived,
    )


def _paired(sides: BothSides, read: ReadNames, common: Common) -> Matching:
    """Return the pairs by names alone where these leave no question open, else by all the evidence, as the caller says."""
    sources, targets, naming, models = sides.sources, sides.targets, sides.naming, common.models
    found = None if models.stated.layouts else by_names(sources, targets, naming, models)
    ground = "order, shapes and neighbours" if found is None else "names alone"
    log.debug("%d tensors of the file, %d of the model: matched by %s", len(sources), len(targets), ground)
    if found is not None:
        return found
    from torchgraft.matching.doubts import OF_VALUES  # numpy: only where names leave a question open
    from torchgraft.matching.structure import by_structure

    registered = _registered([common.specs[key] for key in read.keys.values()], models.target)
    found = by_structure(sources, targets, naming, models, registered=registered, ruled=sides.said.pairs)
    return as_said(found, sides.said, (sources, targets), OF_VALUES)


def _registered(specs: Sequence[TensorSpec], target: Target) -> tuple[bool, bool]:
    """Return whether the file's tensors come as a model registers them, and the target's: that may be a file, too."""
    theirs = [slot.spec for slot in target.slots]
    ours, others = (as_registered((spec.name, spec.dtype) for spec in side) for side in (specs, theirs))
    return ours, others or bool(target.classes)


def _completed(matching: Matching, sides: BothSides) -> Matching:
    """Return the matching with pairs of what is left free on both sides, and without those of heads that were replaced."""
    found = with_leftovers(with_layers_joined(with_shared(matching)))
    return without_replaced(found, sides.said.pairs.values())


def _reviewed(matching: Matching, sides: BothSides, read: ReadNames, models: Models) -> Matching:
    """Return the matching with what speaks against its pairs, seen from whole modules."""
    return reviewed(
        Finished(
            matching=matching,
            sides=(sides.sources, sides.targets),
            naming=sides.naming,
            said=sides.said,
            keys=read.keys.values(),
            models=models,
        )
    )


def _with_facts(matching: Matching, sides: BothSides) -> Matching:
    """Return the matching with what else both sides tell: which part of the file was chosen, and what was left out."""
    naming = sides.naming
    return replace(
        matching,
        free_sources=(*matching.free_sources, *sides.left_out),
        derived=sides.derived,
        chosen=naming.prefixes[0].old if naming.prefixes else "",
        rivals=naming.rivals,
        homes=naming.homes,
    )


def _without_second_names(read: ReadNames, targets: Sequence[Leaf], common: Common) -> ReadNames:
    """Return the names to match by, where several are the same tensor; what rules say of one is meant."""
    firsts: dict[str, str] = {}
    same = {name: firsts.setdefault(common.known.same.get(key, key), name) for name, key in read.keys.items()}
    if len(firsts) == len(read.keys):
        return read
    shapes = {name: common.specs[key].shape for name, key in read.keys.items()}
    sources, _ = sources_of(read.keys, common.specs, common.models, {leaf.name: leaf.shape for leaf in targets})
    ruled = {name for name, key in common.said.rules.present(list(read.keys.values())) if name != key}
    naming = naming_of(sources, targets)
    if naming.rivals and _are_apart(naming, same, shapes):
        return read  # what two networks of the file share belongs to both
    return read.without(second_names(shapes, same, {*naming.pairs, *ruled}, targets))


def _are_apart(naming: Naming, same: Mapping[str, str], shapes: Mapping[str, Shape]) -> bool:
    """Return whether parts of the file that fit the same slots hold other tensors, not the same ones under other names.

    Their matrices tell: counters and vectors of nothing but zeros or ones are equal by chance, and never called the same.
    """
    chosen = naming.prefixes[0].old
    ends = [name[len(chosen) :] for name in same if name.startswith(chosen) and len(shapes[name]) > 1]
    return any(same[chosen + end] != same.get(rival + end) for rival in naming.rivals for end in ends)


def _may_take(free: Iterable[Leaf], specs: Collection[TensorSpec]) -> bool:
    """Return whether something that stays free has the size of one of the tensors."""
    sizes = {spec.numel for spec in specs}
    return any(leaf.numel in sizes for leaf in free)


def _filled(matching: Matching) -> int:
    """Return how many elements of the model are filled."""
    return sum(m.target.numel for m in matching.matches)
