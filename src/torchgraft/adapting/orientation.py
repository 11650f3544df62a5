"""How matrices and kernels of a file are stored: what the tensors whose shape shows it say about the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torchgraft.adapting.tables import NEVER_TURNED
from torchgraft.core.match import Leaf, Match
from torchgraft.core.names import words
from torchgraft.core.specs import Shape, TensorSpec

# Other layouts of convolution kernels, as the permutation that brings them to torch's [out, in, ...]: by the number of axes, for
# each of `ORDERS`, [..., in, out] (TensorFlow, Keras, Flax) and [out, ..., in] (MLX).
ORDERS = ("outputs last", "channels last")
DISPUTED = "disputed"
KERNEL_LAYOUTS: dict[int, tuple[tuple[int, ...], ...]] = {
    3: ((2, 1, 0), (0, 2, 1)),
    4: ((3, 2, 0, 1), (0, 3, 1, 2)),
    5: ((4, 3, 0, 1, 2), (0, 4, 1, 2, 3)),
}
WEIGHTS = frozenset({"weight", "kernel", "w"})
WEIGHT_KEY = re.compile(rf"(.*[./]|)(?:{'|'.join(sorted(WEIGHTS))})(:0|)", re.DOTALL)
MATRIX_TABLES = frozenset({"Embedding", "EmbeddingBag"})
# The place within a block of what has none in the model.
ELSEWHERE = "?"

# What is known of how the two layers of a pair are stored.
Sides = tuple["bool | None", "bool | None"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What the tensors whose shape shows it say about the source's layout.

    `turned`/`straight` count matrices that fit only transposed, or only as they are, `among` the same for those of each
    kind of layer: a model may have layers that are stored [in, out] beside others; `within` the same for those of each
    list of blocks: an output layer outside may be stored otherwise. `kernel` is the one of `ORDERS`
    that all permuted kernels share, if any (`DISPUTED`: some have another), and `plain_kernels` counts those that fit as they are
    and in no other way; `transposed` is that of kernels of transposed convolutions, of which libraries keep the channels in either order.
    `outputs_first` are the keys of matrices that their bias shows to be stored [out, in].
    """

    turned: int = 0
    straight: int = 0
    among: Mapping[Sides, tuple[int, int]] = field(default_factory=dict)
    within: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    turned_tails: frozenset[str] = frozenset()
    straight_tails: frozenset[str] = frozenset()
    kernel: str | None = None
    plain_kernels: int = 0
    transposed: str | None = None
    raw_turned: int = 0
    raw_straight: int = 0
    outputs_first: frozenset[str] = frozenset()

    def is_another(self, source: Leaf, target: Leaf) -> bool:
        """Whether a matrix fits a linear layer only turned and is known not to be: a layer of other sizes."""
        told = source.keys[0] in self.outputs_first and source.part is None and source.form == "plain"
        return told and target.kind == "Linear" and source.shape != target.shape


def read_layout(matches: Sequence[Match], specs: Mapping[str, TensorSpec]) -> Layout:
    """Return what the tensors whose shape shows their orientation say about the file as a whole.

    Of `specs`, all tensors of the file, those count too that find no place: beside a bias a matrix shows how it is stored.
    """
    first = Layout(outputs_first=frozenset(key for key, in_out in shown_by_bias(specs, ()) if not in_out))
    matrices: list[Match] = []
    kernels: list[Match] = []
    raw: list[bool] = []
    for found in matches:
        a, b = found.source.shape, found.target.shape
        if len(a) != len(b) or len(a) < 2:
            continue
        if is_raw_matrix(found.source, found.target):
            if a[0] != a[1] and a in (b, b[::-1]):
                raw.append(a == b)
        elif len(a) > 2:
            kernels.append(found)
        elif is_matrix(found.source, found.target) and not first.is_another(found.source, found.target):
            matrices.append(found)
    kernel, plain = _order_of(kernels)
    if kernel is None and not plain:
        kernel, plain = _shown_by_biases(specs)
    transposed, _ = _order_of(
        [found for found in kernels if is_transposed(found.target) and found.target.shape[0] != found.target.shape[1]]
    )
    layout = replace(first, kernel=kernel, plain_kernels=plain, transposed=transposed)
    layout = replace(layout, raw_turned=raw.count(False), raw_straight=raw.count(True))
    return _with_matrices(layout, matrices, specs)


def _with_matrices(layout: Layout, matrices: Sequence[Match], specs: Mapping[str, TensorSpec]) -> Layout:
    """Return the layout with what matrices say: their shapes, what is known of both layers, and biases beside them."""
    ends = [(found.source, found.target) for found in matrices]
    oblong = [(a, b, a.shape != b.shape) for a, b in ends if a.shape[0] != a.shape[1]]
    square = [(a, b) for a, b in ends if a.shape[0] == a.shape[1] and None not in (a.turned, b.turned)]
    places = [(*last_list(b.name), turned) for _, b, turned in oblong]
    shown = Counter([(tail, turned) for _, tail, turned in places])
    shown.update([(last_list(b.name)[1], a.turned != b.turned) for a, b in square])
    among = Counter([((a.turned, b.turned), turned) for a, b, turned in oblong])
    within = Counter([(around, turned) for around, _, turned in places])
    told = {key for a, _, _ in oblong for key in a.keys}
    blocks = {last_list(key) for key in told}  # what one more block would say its like says, beside what the model has
    for key, in_out in shown_by_bias(specs, told):
        if "." in last_list(key)[1] and last_list(key) in blocks:
            continue
        shown[ELSEWHERE, in_out] += 1
        within[last_list(key)[0], in_out] += 1
        for model in (False, True):  # what it means for a layer of the model depends on how that is stored
            among[(None, model), in_out != model] += 1
    turned, straight = ({tail: n for (tail, own), n in shown.items() if own == way} for way in (True, False))
    return replace(
        layout,
        turned=sum(turned.values()),
        straight=sum(straight.values()),
        among=_both_ways(among),
        within=_both_ways(within),
        turned_tails=frozenset(turned),
        straight_tails=frozenset(straight),
    )


def _both_ways(counts: Counter[tuple[T, bool]]) -> dict[T, tuple[int, int]]:
    """Return how many are turned and how many are not, of each kind that was counted."""
    return {kind: (counts[kind, True], counts[kind, False]) for kind, _ in counts}


def last_list(name: str) -> tuple[str, str]:
    """Return the path of the last numbered list that a tensor lies in, "" where it lies in none, and its path in there."""
    path = name
    while path:
        around, _, last = path.rpartition(".")
        if last.isdecimal():
            return around, name[len(path) + 1 :]
        path = around
    return "", name


def in_order(shape: Shape, order: str | None) -> tuple[int, ...] | None:
    """Return the permutation that brings a kernel of this shape from one of `ORDERS` to torch's; None for other tensors."""
    return dict(zip(ORDERS, KERNEL_LAYOUTS.get(len(shape), ()), strict=False)).get(order or "")


def _order_of(kernels: Sequence[Match]) -> tuple[str | None, int]:
    """Return the order that all permuted kernels share, and how many kernels fit in no other way than as they are."""
    found: set[str] = set()
    plain = 0
    for match in kernels:
        a, b = match.source.shape, match.target.shape
        if sorted(a) == sorted(b) and (a == b or not is_depthwise(a, b)):
            fits = [order for order in ORDERS if (dims := in_order(a, order)) and permuted(a, dims) == b]
            if a != b and len(fits) == 1:
                found.add(fits[0])
            plain += a == b and not fits
    return (DISPUTED if len(found) > 1 else next(iter(found), None)), plain


def _shown_by_biases(specs: Mapping[str, TensorSpec]) -> tuple[str | None, int]:
    """Return the order with outputs last where biases of kernels show that and none shows another, and how many kernels are as in torch.

    Of kernels that find a place none shows it: those of as many inputs as outputs as positions.
    """
    shown: set[tuple[int, int]] = set()
    for key, spec in specs.items():
        rank = len(spec.shape)
        if rank in KERNEL_LAYOUTS and (bias := _bias_beside(key, specs)) is not None:
            outputs = [axis for axis, size in enumerate(spec.shape) if (size,) == bias.shape]
            if outputs in ([0], [rank - 1]):
                shown.add((rank, outputs[0]))
    plain = sum(not axis for _, axis in shown)
    return (ORDERS[0] if shown and not plain else None), plain


def shown_by_bias(specs: Mapping[str, TensorSpec], told: Container[str]) -> Iterator[tuple[str, bool]]:
    """Yield the matrices whose orientation only their bias shows, each with whether it is stored [in, out]."""
    for key, spec in specs.items():
        if len(spec.shape) != 2 or key in told:
            continue
        bias = _bias_beside(key, specs)
        if bias is None:
            continue
        rows, columns = spec.shape
        if rows != columns and bias.shape in ((rows,), (columns,)):
            yield key, bias.shape == (columns,)


def _bias_beside(key: str, specs: Mapping[str, TensorSpec]) -> TensorSpec | None:
    """Return the bias of the layer whose weight `key` is, also in TensorFlow's spelling; None where there is none."""
    found = WEIGHT_KEY.fullmatch(key)
    return found and specs.get(f"{found[1]}bias{found[2]}")


def is_transposed(leaf: Leaf) -> bool:
    """Whether a kernel is that of a transposed convolution, which torch keeps as [in, out, ...]."""
    return leaf.kind.startswith("ConvTranspose")


def is_depthwise(a: Shape, b: Shape) -> bool:
    """Whether a kernel [height, width, channels, filters of each] has the numbers of one [channels * filters, 1, ...]."""
    return len(a) == len(b) == 4 and (a[0], a[1], a[2] * a[3], 1) == (*b[2:], b[0], b[1]) and a[3] < a[2]


def is_matrix(source: Leaf, target: Leaf) -> bool:
    """Whether the pair is a weight matrix that could be stored the other way round (tables of rows are not)."""
    a, b = source.shape, target.shape
    if len(a) != 2 or (a not in (b, b[::-1])):
        return False
    return target.role in WEIGHTS and target.kind not in MATRIX_TABLES


def is_raw_matrix(source: Leaf, target: Leaf) -> bool:
    """Whether one of the two is a layer's weight and the other a bare parameter that isn't a table of rows."""
    if (source.role in WEIGHTS) == (target.role in WEIGHTS) or target.kind in MATRIX_TABLES:
        return False
    if not len(source.shape) == len(target.shape) == 2 or {source.form, target.form} != {"plain"}:
        return False
    return not {*_last_words(source), *_last_words(target)} & NEVER_TURNED


def _last_words(leaf: Leaf) -> tuple[str, ...]:
    return tuple(word for segment in leaf.name.split(".")[-2:] for word in words(segment))


def permuted(shape: Shape, dims: tuple[int, ...]) -> Shape | None:
    """Return a shape with its axes in another order, None where there are more or fewer."""
    return tuple(shape[d] for d in dims) if len(dims) == len(shape) else None
