"""How one source tensor is made to fit one slot: exact rearrangements first, then changes of size by meaning."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from math import prod

from torchgraft.adapting.orientation import (
    DISPUTED,
    KERNEL_LAYOUTS,
    MATRIX_TABLES,
    WEIGHTS,
    Layout,
    in_order,
    is_depthwise,
    is_matrix,
    is_raw_matrix,
    is_transposed,
    last_list,
    permuted,
)
from torchgraft.core.match import Leaf
from torchgraft.core.plan import Certainty, Op, Rows
from torchgraft.core.specs import Shape
from torchgraft.ops import (
    Permute,
    Reshape,
    Transpose,
)

# Why a bare matrix is turned to become a layer's weight: nn.Linear keeps [out, in].
RAW = "a bare parameter is multiplied as x @ W (as in CLIP's projections), a layer keeps [out, in]"
# How a bare matrix is called that is multiplied like a layer's, with a bias beside it.
LAYER_ENDS = ("_w", "_weight")
# A first layer over patches that code cuts itself from images of three channels. Kernels unroll to [in, height, width] in
# torch, and so do packed latents (Flux); code that cuts images mostly moves the channels last: vit-pytorch, SigLIP 2 and
# Fuyu in transformers, NaFlex in timm. Some unfolds them and has channels first, so the order stays in doubt.
PATCHES = "as [height, width, in] (as in vit-pytorch, SigLIP 2 and Fuyu; torch.nn.Unfold has the channels first)"
CHANNELS_FIRST = "with the channels first (as Qwen2-VL cuts clips; other code moves the channels last)"
EITHER_CHANNELS = (
    "kernel axes in another order; a transposed convolution's kernel has as many channels in as out, and nothing shows which "
    "are first (Keras keeps [..., out, in], Flax [..., in, out] and turns it round)"
)
# For tensors that nothing else tells about: see `matching/parts/forms.py` for kernels that have another sign.
INPUTS_FIRST = "but a kernel of TensorFlow or JAX keeps its inputs first, and nothing shows which axis that is here"
IN_OUT = "as a kernel is in TensorFlow and JAX"
HAIKU = "nothing shows whether the outputs of `w` are its last axis (as in Haiku) or its first"
SQUARE_W = "square: nothing shows whether `w` is stored [in, out] (as in Haiku) or [out, in]"
DEPTHWISE = "but a kernel for each channel alone and one that reads all channels into one are two things"
CHANNELS_MOVE = (
    "but the input channels of one side would be another axis of the kernel on the other, as colours would be the "
    "depth of a volume"
)
MIRRORED = "one layer is a transposed convolution, which keeps [in, out] and mirrors its kernel, and the other is none"
COLOURS, VIDEO = ((3,), 4), ((3,), 5)


@dataclass(frozen=True, slots=True)
class Fit:
    """The ops that make a tensor fit, or (`ops` None) why it stays fresh. `rows` and `made` are as in steps."""

    ops: tuple[Op, ...] | None
    text: str = ""
    rows: Rows | None = None
    certainty: Certainty = Certainty.CERTAIN
    rule: str = ""
    made: Rows | None = None


UNCHANGED = Fit(())  # the tensor as it is


def exact_fit(source: Leaf, target: Leaf, layout: Layout, *, is_stem: bool = False) -> Fit | None:
    """Return how `source` becomes `target` without changing an element, or None when it can't.

    `is_stem`: the first layer of the network, which may cut patches.
    """
    return _from_other_convolution(source, target) or _rearranged(source, target, layout, is_stem=is_stem)


def _rearranged(source: Leaf, target: Leaf, layout: Layout, *, is_stem: bool) -> Fit | None:
    """Return how `source` becomes `target` where nothing tells that one alone is a transposed convolution."""
    a, b = source.shape, target.shape
    if a == b and (len(a) < 2 or (len(a) == 2 and a[0] != a[1])):
        return UNCHANGED
    if is_matrix(source, target) and layout.is_another(source, target):
        return Fit(None, f"{mismatch(a, b)}; the bias beside it shows that it isn't stored transposed")
    if is_matrix(source, target) and not (a == b[::-1] and is_raw_matrix(source, target)):
        return _matrix(source, target, layout)
    if len(a) == len(b) == 2 and a != b and a == b[::-1] and "bias" in f"{source.name} {target.name}":
        return Fit((Transpose(),), "stored transposed")
    if a == b[::-1] and is_raw_matrix(source, target):
        return Fit((Transpose(),), f"stored [in, out]: {RAW}") if a != b else _square_raw(source, target, layout)
    if len(a) == len(b):
        same = _kernel(source, target, layout)
        if same is not None and same.ops and a[:2] != b[:2] and b[0] == b[1] and is_transposed(target):
            return same if layout.transposed else replace(same, text=EITHER_CHANNELS, certainty=Certainty.DOUBT)
        if same is not None:
            return same
    if source.role == "kernel" and len(a) > len(b) == 2 and _flattened(a, b):
        return Fit((Reshape(b),), f"as many numbers as {list(b)}, {INPUTS_FIRST}", certainty=Certainty.DOUBT)
    return _pointwise(source, target, layout) or _other_rank(a, b, is_stem=is_stem)


def _from_other_convolution(source: Leaf, target: Leaf) -> Fit | None:
    """Return how a transposed convolution's weight, which has its inputs first, becomes another layer's, or the reverse.

    None for other layers, and where the kind of one isn't known. A matrix is no convolution's.
    """
    a, b = source.shape, target.shape
    if (
        is_transposed(source) == is_transposed(target)
        or not ((source.kind or (len(a) == 2 and source.turned is None)) and target.kind)
        or min(len(a), len(b)) < 2
        or len(b if is_transposed(target) else a) < 3
    ):
        return None
    if {source.role, target.role} != {"weight"}:
        return None
    if a[:2] == b[1::-1] and prod(a[2:]) == prod(b[2:]) == 1:
        ops = (Reshape(a[:2]), Transpose(), Reshape(b))
        return Fit(ops, "a transposed convolution keeps [in, out], the other layer [out, in]")
    return Fit(None, f"{mismatch(a, b)}; {MIRRORED}", certainty=Certainty.DOUBT) if a == b else None


def _pointwise(source: Leaf, target: Leaf, layout: Layout) -> Fit | None:
    """Return how a matrix becomes a kernel of one position, or the reverse, None for other tensors.

    Axes of size one are in front where inputs come before outputs (TensorFlow, JAX), and behind in torch.
    """
    a, b = _squeezed(source.shape), _squeezed(target.shape)
    if len(source.shape) == len(target.shape) or len(a) != 2 or a != b or a[0] != a[1]:
        return None
    if not {source.role, target.role} <= WEIGHTS or target.kind in MATRIX_TABLES:
        return None
    sides = [
        replace(leaf, shape=shape, kind="", turned=leaf.turned if leaf.turned is not None else _is_turned(leaf.shape))
        for leaf, shape in ((source, a), (target, b))
    ]
    fit = _matrix(sides[0], sides[1], layout)
    if not fit.ops:
        return None if fit.certainty is Certainty.CERTAIN else replace(fit, ops=(Reshape(target.shape),))
    ops = (
        *(() if source.shape == a else (Reshape(a),)),
        *fit.ops,
        *(() if target.shape == b else (Reshape(target.shape),)),
    )
    return replace(fit, ops=ops)


def _is_turned(shape: Shape) -> bool | None:
    """Return whether a kernel of one position keeps its inputs first; None for what has as few axes as a matrix."""
    return None if len(shape) < 3 else shape[0] == 1


def _kernel(source: Leaf, target: Leaf, layout: Layout) -> Fit | None:
    """Return how tensors of equal rank fit: as they are, or with the axes of a kernel in another order."""
    a, b = source.shape, target.shape
    shared = in_order(a, layout.kernel)
    if a == b and shared is not None and not layout.plain_kernels and permuted(a, shared) == b:
        return Fit((Permute(shared),), "kernel axes in another order, like the other kernels of the file")
    if a == b:
        return _kernel_by_role(source, target, layout)
    if is_depthwise(a, b) and not is_transposed(target):
        ops: tuple[Op, ...] = (Permute((2, 3, 0, 1)), *((Reshape(b),) if a[3] > 1 else ()))
        return Fit(ops, "depthwise, stored [height, width, channels, filters of each] (as in TensorFlow)")
    fits = (dims for dims in KERNEL_LAYOUTS.get(len(a), ()) if permuted(a, dims) == b)
    dims = next(fits, None)
    return None if dims is None else Fit((Permute(dims),), "kernel axes in another order")


def _kernel_by_role(source: Leaf, target: Leaf, layout: Layout) -> Fit:
    """Return how a kernel fits whose axes fit in several orders: other kernels tell, else its name."""
    a = source.shape
    last = KERNEL_LAYOUTS.get(len(a), ((),))[0]
    if layout.kernel == DISPUTED and any(permuted(a, dims) == a for dims in KERNEL_LAYOUTS.get(len(a), ())):
        return Fit((), "other kernels of the file have their axes in several orders", certainty=Certainty.DOUBT)
    if layout.plain_kernels or source.role == target.role or permuted(a, last) != a:
        return UNCHANGED
    if source.role == "kernel":
        return Fit((Permute(last),), f"kernel axes in another order, {IN_OUT}", certainty=Certainty.LIKELY)
    return Fit((), HAIKU, certainty=Certainty.DOUBT) if source.role == "w" else UNCHANGED


def _other_rank(a: Shape, b: Shape, *, is_stem: bool) -> Fit | None:
    """Return how tensors fit with axes of size one set aside, unrolled, or both turned and unrolled."""
    if _squeezed(a) == _squeezed(b):
        text = "axes of size one set aside"
        if min(len(a), len(b)) > 2 and a[0] == b[0] > 1 and a[1] != b[1] and len(a) != len(b):
            return Fit((Reshape(b),), f"{text}, {CHANNELS_MOVE}", certainty=Certainty.DOUBT)
        if len(a) == len(b) > 2 and len(_squeezed(a)) > 1:
            return Fit((Reshape(b),), f"{text}, {DEPTHWISE}", certainty=Certainty.DOUBT)
        return Fit((Reshape(b),), text)
    if _flattened(a, b):
        cuts_patches = is_stem and any(d != 1 for d in (*a[2:], *b[2:]))
        if cuts_patches and COLOURS in ((a[1:2], len(a)), (b[1:2], len(b))):
            return Fit(_patches(a, b), f"patches unrolled {PATCHES}", certainty=Certainty.DOUBT)
        disputed = cuts_patches and VIDEO in ((a[1:2], len(a)), (b[1:2], len(b)))
        sure = Certainty.DOUBT if disputed else Certainty.LIKELY if cuts_patches else Certainty.CERTAIN
        order = f" {CHANNELS_FIRST}" if disputed else ""
        return Fit((Reshape(b),), f"the same numbers as {list(b)}, unrolled{order}", certainty=sure)
    if len(b) > 2 and len(a) == 2 and _squeezed(a)[::-1] == _squeezed(b):
        return Fit((Transpose(), Reshape(b)), "stored [in, out]")
    if len(a) > 2 and len(b) == 2 and _squeezed(a)[::-1] == _squeezed(b):
        return Fit((Reshape(_squeezed(a)), Transpose()), "stored [in, out]")
    return None


def _patches(a: Shape, b: Shape) -> tuple[Op, ...]:
    """Return the ops between a kernel [out, in, height, width] and a matrix over patches cut by hand."""
    if len(a) == 4:
        return (Permute((0, 2, 3, 1)), Reshape(b))
    return (Reshape((b[0], *b[2:], b[1])), Permute((0, 3, 1, 2)))


def _square_raw(source: Leaf, target: Leaf, layout: Layout) -> Fit:
    """Return how a square bare matrix fits: like the bare matrices of the file whose shape shows it, or as most are."""
    told = bool(layout.raw_straight) != bool(layout.raw_turned)
    bare = next(leaf for leaf in (source, target) if leaf.role not in WEIGHTS)
    ops = () if told and layout.raw_straight else (Transpose(),)
    if told:
        kept = "transposed" if ops else "kept as it is"
        return Fit(ops, f"square, {kept} like every bare matrix whose shape shows it", certainty=Certainty.LIKELY)
    if bare.role.endswith(LAYER_ENDS):
        return Fit((), f"square: whether {bare.name} is stored [in, out] isn't shown", certainty=Certainty.DOUBT)
    return Fit(ops, f"stored [in, out]: {RAW}", certainty=Certainty.LIKELY)


def _matrix(source: Leaf, target: Leaf, layout: Layout) -> Fit:
    """Return how a matrix fits: what its shape leaves open, other matrices of the file say, its list before all of them."""
    a, b = source.shape, target.shape
    if a != b:
        return _turned(source, target, layout)
    if source.turned is not None and target.turned is not None:
        return _as_known(source, target)
    around, tail = last_list(target.name)
    if "." in tail and tail in layout.turned_tails and tail not in layout.straight_tails:
        return Fit((Transpose(),), f"square, transposed like the other {tail}")
    turned, straight = layout.among.get((source.turned, target.turned), (layout.turned, layout.straight))
    as_in_torch = bool(layout.plain_kernels) and layout.kernel in (None, DISPUTED)
    if turned and not straight and not as_in_torch:
        return Fit((Transpose(),), "square, transposed like every matrix of the file whose shape shows it")
    if turned and (tail not in layout.straight_tails or tail in layout.turned_tails):
        in_list = layout.within.get(around, (0, 0)) if around else (0, 0)
        return _as_in_list(around, *in_list) or _disputed(turned, straight, layout.plain_kernels)
    return UNCHANGED if turned or straight or source.role == target.role else _by_role({source.role, target.role})


def _as_in_list(path: str, turned: int, straight: int) -> Fit | None:
    """Return how a square matrix fits like those in its list, None where none of them or not all say the same."""
    if bool(turned) == bool(straight):
        return None
    kept, ops = ("transposed", (Transpose(),)) if turned else ("kept as it is", ())
    return Fit(ops, f"square, {kept} like every matrix in {path} whose shape shows it", certainty=Certainty.LIKELY)


def _disputed(turned: int, straight: int, plain_kernels: int) -> Fit:
    """Return the doubt about a square matrix of a file in which some are stored transposed, and others are not."""
    some = "1 matrix of the file is" if turned == 1 else f"{turned} matrices of the file are"
    others = f"{straight} {'is' if straight == 1 else 'are'} not"
    if not straight:
        others = f"kernels ({plain_kernels}) are as in torch"
    return Fit((), f"square: {some} stored transposed and {others}", certainty=Certainty.DOUBT)


def _turned(source: Leaf, target: Leaf, layout: Layout) -> Fit:
    """Return how a matrix fits that fits only transposed: in doubt where most beside it aren't, as it may be another layer."""
    text = "stored [in, out], the model keeps [out, in]" if target.kind == "Linear" else "stored transposed"
    turned, straight = layout.within.get(last_list(target.name)[0], (0, 0))
    if 0 < straight >= turned and source.role == target.role and None in (source.turned, target.turned):
        text = (
            f"{text}, but {straight} beside it {'is' if straight == 1 else 'are'} not: it may be a layer of other sizes"
        )
        return Fit((Transpose(),), text, certainty=Certainty.DOUBT)
    return Fit((Transpose(),), text)


def _as_known(source: Leaf, target: Leaf) -> Fit:
    """Return how a square matrix fits where both sides are known to be stored in one way."""
    if source.turned == target.turned:
        return Fit(())
    fused = source.part or target.part
    return Fit((Transpose(),), "the fused tensor shows that it is stored transposed" if fused else "stored transposed")


def _by_role(roles: Container[str]) -> Fit:
    """Return how a square matrix fits where only its name, on either side, says how it is stored."""
    if "kernel" in roles:
        return Fit((Transpose(),), f"stored [in, out], {IN_OUT}", certainty=Certainty.LIKELY)
    return Fit((), SQUARE_W, certainty=Certainty.DOUBT) if "w" in roles else UNCHANGED


def mismatch(a: Shape, b: Shape) -> str:
    """Return the difference of two shapes in words."""
    if len(a) == len(b) and a and a[0] != b[0] and a[1:] == b[1:]:
        return f"{a[0]} row{'s' * (a[0] != 1)} in the file, {b[0]} in the model"
    text = f"shape {list(a)} in the file, {list(b)} in the model"
    if len(b) and len(a) == len(b) + 1 and a[0] > 1 and a[1:] in (b, b[::-1]):
        return f"{text}: {a[0]} of its kind in one, as of all layers, which are not taken apart"
    return f"{text}: the same axes in another order, perhaps {_order(a, b)} (permute=)" if reordered(a, b) else text


def reordered(a: Shape, b: Shape) -> bool:
    """Return whether kernels have the same axes in another order."""
    return len(a) > 2 and a != b and sorted(a) == sorted(b)


def _order(a: Shape, b: Shape) -> list[int]:
    """Return an order of the axes of `a` that makes `b` of it: axes of one size stay as they follow each other."""
    left = list(enumerate(a))
    order = []
    for size in b:
        axis = next(pair for pair in left if pair[1] == size)
        left.remove(axis)
        order.append(axis[0])
    return order


def _squeezed(shape: Shape) -> Shape:
    return tuple(d for d in shape if d != 1)


def _flattened(a: Shape, b: Shape) -> bool:
    if len(a) == len(b) or min(len(a), len(b)) != 2 or a[0] != b[0]:
        return False
    long, short = (a, b) if len(a) > len(b) else (b, a)
    return prod(long[1:]) == short[1]
