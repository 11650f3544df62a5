"""Facts about a whole plan that no single tensor shows: layouts, first layers, flattened maps, vocabularies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from torchgraft.adapting.context import PlanContext
from torchgraft.adapting.fit import Fit
from torchgraft.adapting.options import Options
from torchgraft.adapting.orientation import MATRIX_TABLES, ORDERS, WEIGHTS, Layout, read_layout
from torchgraft.adapting.positions import Side, read_side
from torchgraft.adapting.rows import changed_vocabularies
from torchgraft.core.match import Leaf, Match, Matching
from torchgraft.core.plan import Certainty
from torchgraft.core.registration import as_registered
from torchgraft.core.specs import Slot, Target, TensorSpec
from torchgraft.ops import Permute, Reshape

# torch flattens [channels, height, width], TensorFlow, Keras and Flax [height, width, channels]: the same numbers in another
# order, which no shape shows.
UNSURE = (
    "the file keeps channels last, so that columns for flattened maps go position by position; they are put channel by "
    "channel, as torch flattens, unless the model's code moves the channels last itself (permute= keeps the columns)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What holds for all tensors of one plan."""

    specs: Mapping[str, TensorSpec]
    slots: Mapping[str, Slot]
    options: Options
    layout: Layout
    sides: tuple[Side, Side]
    first_convs: frozenset[str]
    flattened: Mapping[str, int]
    keyed: frozenset[str]
    network: str
    library: str
    vocabularies: frozenset[tuple[int, int]]
    architecture: str


def gather_facts(matching: Matching, specs: Mapping[str, TensorSpec], target: Target, context: PlanContext) -> Facts:
    """Return the facts that single tensors can't show: orientation, prefix tokens, which convolution is the first.

    `specs` and `target` are the sides as they were matched.
    """
    matches = matching.matches
    leaves = (
        [*(m.source for m in matches), *matching.free_sources],
        [*(m.target for m in matches), *matching.free_targets],
    )
    layout = read_layout(matches, specs)
    return Facts(
        specs=specs,
        slots={slot.name: slot for slot in target.slots},
        options=context.options,
        layout=layout,
        sides=(
            replace(read_side(leaves[0]), grids=context.source_grids),
            replace(read_side(leaves[1]), grids=target.grids),
        ),
        first_convs=first_convolutions(matches, leaves),
        keyed=frozenset(m.target.keys[0].rpartition(".")[0] for m in matches if _has_keys(m.target)),
        flattened=behind_maps(leaves[1]) if layout.kernel in ORDERS and not layout.plain_kernels else {},
        network=context.network,
        library=target.library,
        vocabularies=changed_vocabularies(matches),
        architecture=context.architecture,
    )


def _has_keys(leaf: Leaf) -> bool:
    """Whether a matrix is that of keys, or is whole."""
    return len(leaf.shape) > 1 and (leaf.part is None or leaf.part.label == "k")


def first_convolutions(matches: Sequence[Match], leaves: tuple[Sequence[Leaf], Sequence[Leaf]]) -> frozenset[str]:
    """Return the weights of first convolutions, of either side: the model's first, and what it is fed from.

    `leaves` are all of the file's and all of the model's. The file's first counts as well where its order says something.
    """
    convs = [leaf for leaf in leaves[1] if _is_kernel(leaf) and leaf.part is None]
    first = {min(convs, key=_order).keys[0]} if convs else set()
    stored = [leaf for leaf in leaves[0] if _is_kernel(leaf)]
    if (
        stored
        and _in_step(matches)
        and as_registered((leaf.keys[0], leaf.dtype) for leaf in sorted(leaves[0], key=_order))
    ):
        first.add(min(stored, key=_order).keys[0])
    return frozenset(first | {m.source.keys[0] for m in matches if m.target.keys[0] in first})


def _is_kernel(leaf: Leaf) -> bool:
    return len(leaf.shape) >= 3 and leaf.role == "weight"


def _order(leaf: Leaf) -> int:
    return leaf.order


def _in_step(matches: Sequence[Match]) -> bool:
    """Whether the file has its tensors mostly in the model's order; a first one says nothing where it was shuffled."""
    orders = [m.source.order for m in sorted(matches, key=lambda m: m.target.order)]
    return 4 * sum(a <= b for a, b in pairwise(orders)) >= 3 * (len(orders) - 1)


def behind_maps(leaves: Iterable[Leaf]) -> dict[str, int]:
    """Return slot -> channels, for each first matrix behind a convolution: it may take the flattened maps of so many.

    `leaves` are the model's. Columns for flattened maps are a multiple of the channels that the convolution gives.
    """
    found: dict[str, int] = {}
    channels = 0
    for leaf in sorted(leaves, key=lambda leaf: leaf.order):
        if leaf.role not in WEIGHTS or len(leaf.shape) < 2 or leaf.kind in MATRIX_TABLES:
            continue
        if len(leaf.shape) > 2:
            channels = leaf.shape[int(leaf.kind.startswith("ConvTranspose"))]
            continue
        columns = leaf.shape[int(not leaf.turned)]
        if channels > 1 and columns > channels and columns % channels == 0:
            found[leaf.keys[0]] = channels
        channels = 0
    return found


def unflattened(fit: Fit, target: Leaf, channels: int) -> Fit:
    """Return the fit with the columns of the matrix [out, in] channel by channel: no more than a doubt."""
    if fit.ops is None or len(target.shape) != 2 or target.turned:
        return fit
    rows, columns = target.shape
    order = Reshape((rows, columns // channels, channels)), Permute((0, 2, 1)), Reshape((rows, columns))
    text = "; ".join(filter(None, (fit.text, UNSURE)))
    return replace(fit, ops=(*fit.ops, *order), text=text, certainty=Certainty.DOUBT)
