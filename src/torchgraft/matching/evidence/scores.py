"""What speaks for feeding one unit from another: shapes, names, rules in common, neighbours. All as dense matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np

from torchgraft.core.match import Leaf
from torchgraft.core.specs import Shape
from torchgraft.matching.evidence.blocks import block_likeness
from torchgraft.matching.evidence.wording import Wording, says_kind
from torchgraft.matching.parts.units import BARE, Unit, flat_class, keeps_statistics, shape_class

# Score from which on a pair is taken at all: shapes that fit give 1, and words that exclude each other take more than that.
FITS = 0.4
# Score of what never belongs together: no evidence makes up for it.
NEVER = -9.0
# Likeness of names below which they say nothing.
STRANGE = 0.15

COMPARED = ("weight", "bias", "mean", "var", BARE)
# Channels of images that a network sees: colours, also with depth or opacity. Layers inside of one have more.
IMAGE_CHANNELS = range(2, 5)


class Said(NamedTuple):
    """What words say of all pairs."""

    alike: np.ndarray  # how alike the names are
    shared: np.ndarray  # number of words that both names hold
    parts: np.ndarray  # they hold the same words for parts of a block


def _said(wording: Wording) -> Said:
    return Said(wording.likeness(), wording.shared(), wording.parts_agree())


@dataclass(frozen=True, slots=True)
class Evidence:
    """Fixed evidence for all pairs: matrices with a row for each source and a column for each target; shares are 0 to 1."""

    fits: np.ndarray  # every shared tensor has the same elements up to rearrangement
    soft: np.ndarray  # they differ in sizes only
    names: np.ndarray  # how alike the names are
    # That and more: by all words, and where order is lost also without those for kinds of layers.
    said: tuple[Said, ...]
    clash: np.ndarray  # the names contradict each other
    rare: np.ndarray  # how few units share the shape
    likeness: np.ndarray  # how alike the numbered blocks around them are
    nearest: np.ndarray  # how alike the two blocks are that are most so
    turned: np.ndarray  # a kernel (or a matrix) has the same sizes in another order
    uneven: np.ndarray  # only one of two layers has a bias
    stems: np.ndarray  # both are kernels of one shape that read images
    shared: np.ndarray  # number of words that both names hold; a number counts with the word before it
    kinds: tuple[np.ndarray, np.ndarray]  # units of either side whose name says what kind of layer it is
    silent: tuple[np.ndarray, np.ndarray]  # units of either side with but a number for a name in their block
    depths: tuple[np.ndarray, np.ndarray]  # in how many lists each unit stands


def gather(sources: Sequence[Unit], targets: Sequence[Unit], *, registered: bool = True) -> Evidence:
    """Return the evidence that needs no other pair to be known."""
    fits, soft = _shapes(sources, targets)
    ours, theirs = (np.array([u.weight for u in units], np.float32) for units in (sources, targets))
    class_size = (fits @ theirs)[:, None] + ours @ fits
    rare = np.where(fits, 2.0 / np.maximum(class_size, 2), 0.0).astype(np.float32)
    wording = Wording(sources, targets)
    names = _said(wording), *([] if registered else [_said(Wording(sources, targets, kinds=False))])
    likeness, nearest = block_likeness(sources, targets)
    return Evidence(
        fits=fits,
        soft=soft,
        names=names[0].alike,
        said=names,
        clash=wording.clash(),
        rare=rare,
        likeness=likeness,
        nearest=nearest,
        turned=_turned(sources, targets),
        uneven=_uneven(sources, targets),
        stems=_stems(sources, targets),
        shared=names[0].shared,
        kinds=(_kinds(sources), _kinds(targets)),
        silent=(_silent(sources), _silent(targets)),
        depths=(_depths(sources), _depths(targets)),
    )


def _kinds(units: Sequence[Unit]) -> np.ndarray:
    return np.array([says_kind(unit) for unit in units], bool)


def _silent(units: Sequence[Unit]) -> np.ndarray:
    """Return which units have no name in their block, but a number: it says nothing against any reading."""
    return np.array([unit.tail.isdecimal() for unit in units], bool)


def _depths(units: Sequence[Unit]) -> np.ndarray:
    return np.array([len(unit.blocks) for unit in units], int)


def _turned(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return where weights would have to be transposed: kernels of equal rank whose sizes come in another order.

    Libraries don't transpose kernels. Matrices count only where others show that both sides store them the same way round, as
    no library transposes some and not the rest.
    """
    (rows, ours), (columns, theirs) = _distinct(sources), _distinct(targets)
    least = 2 if _are_upright(sources, targets) else 3
    kernels = [[_kernel(unit, least) for unit in side] for side in (ours, theirs)]
    found = np.array([[len(a) == len(b) and a != b for b in kernels[1]] for a in kernels[0]], bool)
    turned: np.ndarray = found.reshape(len(ours), len(theirs))[np.ix_(rows, columns)]
    return turned


def _uneven(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return where only one of two has a bias beside its weight."""
    (weights, here), (others, there) = (
        [np.array([role in unit.leaves for unit in units], bool) for role in ("weight", "bias")]
        for units in (sources, targets)
    )
    uneven: np.ndarray = (here[:, None] != there) & weights[:, None] & others
    return uneven


def _stems(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return where both are kernels of one shape, of several positions, that read images."""
    found = np.zeros((len(sources), len(targets)), bool)
    ours, theirs = (
        [(at, shape) for at, unit in enumerate(units) if _reads_images(shape := _kernel(unit, 3))]
        for units in (sources, targets)
    )
    for i, shape in ours:
        found[i, [j for j, other in theirs if other == shape]] = True
    return found


def _reads_images(kernel: Shape) -> bool:
    return kernel[1:2] != () and kernel[1] in IMAGE_CHANNELS and prod(kernel[2:]) > 1


def _kernel(unit: Unit, least: int) -> Shape:
    leaf = unit.leaves.get("weight")
    return leaf.shape if leaf is not None and len(leaf.shape) >= least else ()


def _are_upright(sources: Iterable[Unit], targets: Iterable[Unit]) -> bool:
    """Return whether linear layers in blocks show that both sides store matrices the same way round, and none the contrary.

    A shape shows it if neither side has its transpose. Embedding tables show nothing, as nobody transposes them, nor do layers
    outside of blocks: GPT-2 transposes all in its blocks, and not its head.
    """
    ours, theirs = (
        [u.leaves["weight"] for u in units if u.blocks and "weight" in u.leaves] for units in (sources, targets)
    )
    here, there = ({leaf.shape for leaf in leaves} for leaves in (ours, theirs))
    others = {leaf.shape for leaf in theirs if leaf.turned is not False}
    one_way = {s for s in there - others if len(s) == 2 and s[::-1] not in there and (s in here) != (s[::-1] in here)}
    return bool(one_way) and one_way <= here


def gather_shapes(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return where every shared tensor has the same elements up to rearrangement."""
    return _shapes(sources, targets)[0]


def _shapes(sources: Sequence[Unit], targets: Sequence[Unit]) -> tuple[np.ndarray, np.ndarray]:
    """Return where all shared tensors have the same elements, and where they differ in sizes only.

    Units of the same roles and shapes are compared once.
    """
    (rows, ours), (columns, theirs) = _distinct(sources), _distinct(targets)
    fits, soft = _compared(ours, theirs)
    return fits[np.ix_(rows, columns)], soft[np.ix_(rows, columns)]


def _distinct(units: Sequence[Unit]) -> tuple[list[int], list[Unit]]:
    ids: dict[object, int] = {}
    first: list[Unit] = []
    at = []
    for unit in units:
        kind = tuple((role, leaf.shape) for role, leaf in unit.leaves.items())
        at.append(ids.setdefault(kind, len(ids)))
        if len(first) < len(ids):
            first.append(unit)
    return at, first


def _compared(sources: Sequence[Unit], targets: Sequence[Unit]) -> tuple[np.ndarray, np.ndarray]:
    shape = (len(sources), len(targets))
    shared = np.zeros(shape, bool)
    wrong = np.zeros(shape, bool)
    ranks = np.zeros(shape, bool)
    for role in COMPARED:
        cells = _role_cells(sources, targets, role)
        shared |= cells[0]
        wrong |= cells[0] & ~cells[1]
        ranks |= cells[0] & ~cells[1] & ~cells[2]
    for first, second in ((BARE, "weight"), ("weight", BARE)):
        lone = _lone_cells(sources, targets, first, second)
        shared |= lone[0]
        wrong |= lone[0] & ~lone[1]
        ranks |= lone[0] & ~lone[1] & ~lone[2]
    wrong |= shared & _other_kind(sources, targets)
    return shared & ~wrong, shared & wrong & ~ranks


def _other_kind(sources: Sequence[Unit], targets: Sequence[Unit]) -> np.ndarray:
    """Return where only one of the two keeps statistics of its inputs: a batch norm is no layer norm."""
    ours, theirs = (np.array([keeps_statistics(u.leaves) for u in units], bool) for units in (sources, targets))
    other: np.ndarray = ours[:, None] != theirs
    return other


def _role_cells(sources: Sequence[Unit], targets: Sequence[Unit], role: str) -> tuple[np.ndarray, ...]:
    return _cells([u.leaves.get(role) for u in sources], [u.leaves.get(role) for u in targets])


def _lone_cells(sources: Sequence[Unit], targets: Sequence[Unit], first: str, second: str) -> tuple[np.ndarray, ...]:
    return _cells(
        [u.leaves.get(first) if len(u.leaves) == 1 else None for u in sources],
        [u.leaves.get(second) if len(u.leaves) == 1 else None for u in targets],
    )


def _cells(rows: list[Leaf | None], columns: list[Leaf | None]) -> tuple[np.ndarray, ...]:
    """Return matrices: both have the tensor; shapes have the same elements; ranks (up to ones) are near."""
    ids: dict[object, int] = {}

    def column(leaves: list[Leaf | None], of: Callable[[Shape], Shape]) -> np.ndarray:
        keys = [None if leaf is None else (of, of(leaf.shape)) for leaf in leaves]
        return np.array([-1 if key is None else ids.setdefault(key, len(ids)) for key in keys], int)

    have = np.array([leaf is not None for leaf in rows])[:, None] & np.array([leaf is not None for leaf in columns])
    same = column(rows, shape_class)[:, None] == column(columns, shape_class)
    same |= column(rows, flat_class)[:, None] == column(columns, flat_class)
    rank = [np.array([0 if leaf is None else len(leaf.shape) for leaf in leaves]) for leaves in (rows, columns)]
    near = np.abs(rank[0][:, None] - rank[1]) <= 1
    return have, same & have, near
