"""Layers beside each other on one side that are one on the other: heads for classes and boxes, or one head for both."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf, Match, Matching, Part
from torchgraft.core.names import natural_key
from torchgraft.core.plan import Certainty, Doubt, Why
from torchgraft.matching.names.lists import stem

UNITED = Doubt("united", "their rows add up and nothing else fits, but nothing says in which order they stand")

# The tensors of a layer whose rows are its outputs.
ROWS = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is free: its path and its tensors by role."""

    path: str
    leaves: Mapping[str, Leaf]

    @property
    def rows(self) -> int:
        """Number of outputs."""
        return self.leaves["weight"].shape[0]

    @property
    def kind(self) -> tuple[object, ...]:
        """What a layer must have in common with those that it could be one with: all but the number of outputs."""
        return tuple((role, leaf.shape[1:]) for role, leaf in sorted(self.leaves.items()))


def with_layers_joined(matching: Matching) -> Matching:
    """Return the matching with layers joined, or one cut, where the free ones of one side add up to one of the other.

    Only where there is a single such reading; it is always in doubt, since the order of rows is a guess: by number, or
    as the layers come.
    """
    if not matching.free_sources or not matching.free_targets:
        return matching
    sources, targets = _layers(matching.free_sources), _layers(matching.free_targets)
    found = [
        match
        for wholes, layers, joins in ((sources, targets, False), (targets, sources, True))
        for whole, parts in _sums(wholes, layers)
        for cut, part in _cut(whole, parts)
        for match in _pairs(whole=cut, part=part, joins=joins)
    ]
    fed = {key for m in found for key in m.target.keys}
    used = {key for m in found for key in m.source.keys}
    return replace(
        matching,
        matches=(*matching.matches, *found),
        free_targets=tuple(leaf for leaf in matching.free_targets if not fed.intersection(leaf.keys)),
        free_sources=tuple(leaf for leaf in matching.free_sources if not used.intersection(leaf.keys)),
    )


def _layers(leaves: Iterable[Leaf]) -> list[Layer]:
    found: dict[str, dict[str, Leaf]] = defaultdict(dict)
    odd: set[str] = set()
    for leaf in leaves:
        found[leaf.owner][leaf.role] = leaf
        if leaf.role not in ROWS or leaf.form != "plain" or leaf.part is not None or leaf.turned:
            odd.add(leaf.owner)
    return [
        Layer(path, roles)
        for path, roles in found.items()
        if path not in odd and "weight" in roles and len(roles["weight"].shape) > 1
    ]


def _sums(wholes: Sequence[Layer], layers: Sequence[Layer]) -> Iterator[tuple[Layer, list[Layer]]]:
    """Yield each layer that is the sum of layers beside each other, where both have no other reading."""
    groups = [group for group in _groups(layers) if len(group) > 1]
    fits = [
        (whole, group)
        for whole in wholes
        for group in groups
        if whole.kind == group[0].kind and whole.rows == sum(layer.rows for layer in group)
    ]
    for whole, group in fits:
        rivals = [1 for other, parts in fits if other is whole or set(_paths(parts)) & set(_paths(group))]
        if len(rivals) == 1:
            yield whole, group


def _groups(layers: Sequence[Layer]) -> Iterator[list[Layer]]:
    """Yield layers of one kind that are members of one numbered row, and the others that lie in one module."""
    found: dict[tuple[object, ...], list[Layer]] = defaultdict(list)
    for layer in layers:
        parent, _, last = layer.path.rpartition(".")
        found[parent, stem(last), layer.kind].append(layer)
    for (_, row, _), group in found.items():
        yield group if row is None else sorted(group, key=lambda layer: natural_key(layer.path))


def _paths(group: Iterable[Layer]) -> list[str]:
    return [layer.path for layer in group]


def _cut(whole: Layer, parts: Sequence[Layer]) -> Iterator[tuple[Layer, Layer]]:
    """Yield what of the whole layer each part is, and the part."""
    at = 0
    for part in parts:
        label, stop = part.path.rpartition(".")[2], at + part.rows
        cut = {
            role: replace(
                leaf, name=f"{whole.path}.{label}.{role}", shape=(part.rows, *leaf.shape[1:]), also=(),
                part=Part(label, 0, at, stop, whole.rows),
            )
            for role, leaf in whole.leaves.items()
        }  # fmt: skip
        yield Layer(whole.path, cut), part
        at = stop


def _pairs(*, whole: Layer, part: Layer, joins: bool) -> Iterator[Match]:
    verb = "is made of" if joins else "is a part of"
    ours = f"{whole.path} {verb} {part.path}" if joins else f"{part.path} {verb} {whole.path}"
    why = Why(Ground.UNITED, ours).in_doubt(UNITED)
    for role, piece in whole.leaves.items():
        source, target = (part.leaves[role], piece) if joins else (piece, part.leaves[role])
        yield Match(target=target, source=source, why=why, certainty=Certainty.DOUBT)
