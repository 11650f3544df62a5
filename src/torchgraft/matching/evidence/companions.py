"""Which layer each norm belongs to, as names tell it: that needs no order of registration."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby

from torchgraft.core.names import words
from torchgraft.matching.names.words import canonical
from torchgraft.matching.parts.units import Unit, keeps_statistics

Index = tuple[int, int]
# What a segment says of a layer, or of the norm beside it, that is the same for both: `conv1` and `bn1`, `dw_conv` and `dw_bn`.
LAYER_WORDS = frozenset({"conv", "convolution", "linear", "fc"})
# From so many axes on a weight is a kernel.
KERNEL = 3


def norms_with_layers(pairs: Iterable[Index], sources: Sequence[Unit], targets: Sequence[Unit]) -> dict[Index, Index]:
    """Return where norms belong whose layers are paired: each pair of norms, with the pair of layers that it goes with.

    A layer that has a norm on one side only says that the two sides may tell norms from layers in different ways, in front and
    behind: then nothing is said of norms as wide as that one.
    """
    units = sources, targets
    ours, theirs = ({layer: norm for norm, layer in layers_of_norms(side).items()} for side in units)
    found, untold = {}, set()
    for i, j in pairs:
        norm, other = ours.get(i), theirs.get(j)
        if norm is not None and other is not None:
            found[norm, other] = (i, j)
        elif norm is not None or other is not None:
            untold.add(_width(sources[norm]) if norm is not None else _width(targets[other or 0]))
    return {
        (norm, other): layers
        for (norm, other), layers in found.items()
        if _width(sources[norm]) == _width(targets[other]) and _width(sources[norm]) not in untold
    }


def layers_of_norms(units: Sequence[Unit]) -> dict[int, int]:
    """Return the layer of each norm that names give one, and only it: no two norms have one layer."""
    layers = {at for at, unit in enumerate(units) if _is_layer(unit)}
    norms = {at for at, unit in enumerate(units) if _is_norm(unit)}
    found: dict[int, int] = {}
    for way in (_alone_together, _called_alike, _in_turn):
        for norm, layer in way(units, norms - found.keys(), layers - set(found.values())):
            if norm not in found and _width(units[norm]) in units[layer].leaves["weight"].shape:
                found[norm] = layer
    times = Counter(found.values())
    return {norm: layer for norm, layer in found.items() if times[layer] == 1}


def _alone_together(units: Sequence[Unit], norms: set[int], layers: set[int]) -> Iterator[Index]:
    """Yield norms with the layers with which they are alone in a module."""
    held: defaultdict[str, list[int]] = defaultdict(list)
    for at, unit in enumerate(units):
        for module in accumulate(unit.parent.split("."), "{}.{}".format):
            held[module].append(at)
    for inside in held.values():
        if len(inside) == 2:
            norm, layer = sorted(inside, key=lambda at: at in layers)
            if norm in norms and layer in layers:
                yield norm, layer


def _called_alike(units: Sequence[Unit], norms: set[int], layers: set[int]) -> Iterator[Index]:
    """Yield norms with the layers that are called as they are but for the words of either: `bn1` and `conv1`.

    Numbers of matrices and of norms that keep no statistics are counted apart: `norm1` is not that of `linear1`.
    """
    called: defaultdict[object, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
    for at, unit in enumerate(units):
        if at in norms or at in layers:
            called[tuple(map(_without_kind, unit.path.split(".")))][at in layers].append(at)
    for inside, beside in called.values():
        if len(inside) == len(beside) == 1:
            norm, layer = units[inside[0]], units[beside[0]]
            if keeps_statistics(norm.leaves) or len(layer.leaves["weight"].shape) >= KERNEL:
                yield inside[0], beside[0]


def _without_kind(segment: str) -> tuple[str, ...]:
    """Return the words of a segment without those for a layer or a norm."""
    return tuple(word for word in words(segment) if word not in LAYER_WORDS and canonical(word) != ("norm",))


def _in_turn(units: Sequence[Unit], norms: set[int], layers: set[int]) -> Iterator[Index]:
    """Yield the norms and the layers of a list in which they take turns, a norm behind each layer or one in front of each."""
    lists: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for at, unit in enumerate(units):
        if unit.last.isdecimal():
            lists[unit.parent].append((int(unit.last), at))
    for members in lists.values():
        row = [at for _, at in sorted(members)]
        kinds = [kind for kind, _ in groupby(row, key=lambda at: at in norms)]
        if set(row) <= norms | layers and len(kinds) == len(row) and len(row) % 2 == 0:
            for a, b in zip(row[::2], row[1::2], strict=True):
                yield (a, b) if kinds[0] else (b, a)


def _is_layer(unit: Unit) -> bool:
    weight = unit.leaves.get("weight")
    return weight is not None and len(weight.shape) > 1


def _is_norm(unit: Unit) -> bool:
    vectors = all(len(leaf.shape) < 2 for leaf in unit.leaves.values())
    return vectors and "weight" in unit.leaves and (len(unit.leaves) > 1 or "norm" in unit.words)


def _width(norm: Unit) -> int:
    return norm.leaves["weight"].numel
