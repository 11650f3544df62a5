"""Parametrized and quantised weights: copied where both sides have the same form, else computed from it or into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TypeAlias

from torchgraft.adapting.fit import Fit
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf
from torchgraft.core.plan import Op
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.ops import (
    ApplyMask,
    Dequant4bit,
    DequantBlocks,
    Reshape,
    SpectralNormBake,
    WeightNormBake,
    WeightNormSplit,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """How one stored tensor of the target is computed: from which keys of the source, by which ops."""

    slot: str
    keys: tuple[str, ...]
    ops: tuple[Op, ...]
    text: str = ""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a form can't be computed, and the ground on which its slot stays fresh."""

    text: str
    ground: Ground = Ground.FORM


# What may stand behind the name of an 8-bit weight besides its scale, and changes it, too (compressed-tensors, ModelOpt).
_MORE_THAN_SCALES = ("_zero_point", "_scale_2")

# What is to be done where a plain tensor of the file can't become one in such a form.
_BEFORE = {
    "spectral_norm": ", which divides by it: fill the model before the norm is put on",
    "pruned": ": fill the model before it is pruned",
}

# The ops that compute a tensor from those under these keys, and how, in words.
Baked: TypeAlias = "tuple[tuple[str, ...], tuple[Op, ...], str]"


def pieces(
    source: Leaf, target: Leaf, specs: Mapping[str, TensorSpec], shapes: Mapping[str, Shape]
) -> list[Piece] | Obstacle:
    """Return a piece per stored tensor of `target`, before any change of shape; or why it can't be done."""
    if source.form == target.form and not _keeps_another_axis(source, target, specs, shapes):
        if len(source.keys) != len(target.keys):
            text = f"{source.form} with {len(source.keys)} tensors in the file, {len(target.keys)} in the model"
            return Obstacle(text)
        return [
            Piece(slot, (key,), _same_count(specs[key].shape, shapes[slot]) if source.form != "plain" else ())
            for slot, key in zip(target.keys, source.keys, strict=True)
        ]
    if target.form == "plain":
        baked = _bake(source, specs, shapes[target.keys[0]], target.kind)
        return baked if isinstance(baked, Obstacle) else [Piece(target.keys[0], *baked)]
    if target.form == "weight_norm" and source.form in ("plain", "weight_norm"):
        return _weight_norm(source, target, specs, shapes)
    text = f"{source.form.replace('_', ' ')} in the file can't become {target.form.replace('_', ' ')} in the model"
    return Obstacle(text + _BEFORE.get(target.form, "") if source.form == "plain" else text)


def _keeps_another_axis(
    source: Leaf, target: Leaf, specs: Mapping[str, TensorSpec], shapes: Mapping[str, Shape]
) -> bool:
    """Return whether both sides have weight norm, each over other dimensions: magnitudes of rows are none of columns."""
    if not source.form == target.form == "weight_norm":
        return False
    ours, theirs = specs[source.keys[0]].shape, shapes[target.keys[0]]
    return ours != theirs and _norm_dim(ours) != _norm_dim(theirs)


def _weight_norm(
    source: Leaf, target: Leaf, specs: Mapping[str, TensorSpec], shapes: Mapping[str, Shape]
) -> list[Piece]:
    """Return the pieces of the model's weight norm, from a plain weight or from the file's own norm."""
    joined: tuple[Op, ...] = ()
    said = "weight norm of the plain weight"
    if source.form == "weight_norm":
        joined = (WeightNormBake(_norm_dim(specs[source.keys[0]].shape)),)
        said = "weight norm over other dimensions than in the file, computed from g * v / |v|"
    dim = _norm_dim(shapes[target.keys[0]])
    return [
        Piece(
            slot,
            source.keys,
            (*joined, WeightNormSplit(part, dim), *_alone(shapes[slot], part, dim)),
            f"{said}: its {part}",
        )
        for slot, part in zip(target.keys, ("g", "v"), strict=True)
    ]


def _alone(magnitude: Shape, part: str, dim: int | None) -> tuple[Op, ...]:
    """Return the op for a magnitude of one element with axes: that of a layer with one output is as over all dimensions."""
    return (Reshape(magnitude),) if part == "g" and dim is None and magnitude else ()


def _same_count(a: Shape, b: Shape) -> tuple[Op, ...]:
    if a == b:
        return ()
    return (Reshape(b),) if prod(a) == prod(b) else ()


def _norm_dim(magnitude: Shape) -> int | None:
    """Return the axis that weight norm keeps: the one along which the magnitude is not one."""
    wide = [axis for axis, size in enumerate(magnitude) if size != 1]
    return wide[0] if len(wide) == 1 else (None if magnitude == () or (not wide and len(magnitude) != 1) else 0)


def _bake(source: Leaf, specs: Mapping[str, TensorSpec], wanted: Shape, kind: str) -> Baked | Obstacle:
    if source.form == "weight_norm":
        dim = _norm_dim(specs[source.keys[0]].shape)
        return source.keys, (WeightNormBake(dim),), "weight norm computed: g * v / |v|"
    if source.form == "spectral_norm":
        if len(source.keys) < 3:
            return Obstacle("spectral norm without its right vector (weight_v)")
        dim = _spectral_dim(specs[source.keys[0]].shape, specs[source.keys[1]].shape, kind)
        return source.keys, (SpectralNormBake(dim),), "spectral norm computed: w / (u W v)"
    if source.form == "pruned":
        return source.keys, (ApplyMask(),), "pruning mask applied"
    if source.form == "fp8":
        return _eight_bits(source, specs)
    if source.form == "bnb4":
        return _four_bits(source, specs, wanted)
    return Obstacle(f"{source.form} packing (quantised) is not decoded", Ground.QUANTISED)


def _spectral_dim(weight: Shape, left: Shape, kind: str) -> int:
    """Return the axis whose indices are the rows of the matrix W: the outputs', which transposed convolutions keep second."""
    fitting = [dim for dim in (0, 1) if left == weight[dim : dim + 1]]
    return 1 if fitting == [1] or (1 in fitting and kind.startswith("ConvTranspose")) else 0


def _eight_bits(source: Leaf, specs: Mapping[str, TensorSpec]) -> Baked | Obstacle:
    """Return the product of 8-bit floats and their scales."""
    weight, scale = (specs[key] for key in source.keys)
    more = next((key for end in _MORE_THAN_SCALES if (key := weight.name + end) in specs), None)
    text = ""
    if not scale.dtype.is_float:  # exponents of two as bytes, in MXFP8
        text = f"8-bit float weight (quantised) whose scales are kept as {scale.dtype}, which is not decoded"
    elif more is not None:
        text = f"8-bit float weight (quantised) that {more} changes as well, which is not decoded"
    if text:
        return Obstacle(text, Ground.QUANTISED)
    block = _block(weight.shape, scale.shape)
    if block is None:
        text = f"8-bit float weight (quantised) whose scales {list(scale.shape)} leave the size of a block open"
        return Obstacle(text, Ground.QUANTISED)
    return source.keys, (DequantBlocks(block),), f"8-bit float times its scale, blocks of {list(block)}"


def _four_bits(source: Leaf, specs: Mapping[str, TensorSpec], wanted: Shape) -> Baked | Obstacle:
    """Return the unpacking of bitsandbytes' 4-bit weights; the shape is the model's, the state in the file has the sizes."""
    packed, absmax, code = source.keys[:3]
    if (prod(wanted) + 1) // 2 != specs[packed].numel or any("nested" in key for key in source.keys):
        text = f"4-bit packing (quantised) of {specs[packed].numel} bytes that don't unpack to {list(wanted)}"
        return Obstacle(text, Ground.QUANTISED)
    state = tuple(key for key in source.keys[3:] if ".quant_state." in key)
    if len(state) != 1 or len(source.keys) != 4:
        return Obstacle("4-bit packing (quantised) without its quant_state", Ground.QUANTISED)
    block = -(-prod(wanted) // specs[absmax].numel)
    op = Dequant4bit(shape=wanted, blocksize=block)
    return (packed, absmax, code, *state), (op,), f"4-bit codes unpacked, blocks of {block}"


def _block(weight: Shape, scale: Shape) -> tuple[int, ...] | None:
    """Return the size of the blocks that have one scale each; None where the shapes leave it open.

    300 rows in 3 blocks are 100 + 100 + 100, or 128 + 128 + 44, the last one cut short: a size that stands alone along
    another dimension decides. Scales without axes of their own are for rows.
    """
    if prod(scale) == 1:
        return weight
    if len(scale) == 1 < len(weight) and scale != weight[:1]:
        return None  # as many as parts that were fused, or as columns
    scale = (*scale, *(1,) * (len(weight) - len(scale)))
    if len(scale) != len(weight) or min(scale) < 1:
        return None
    readings = [_block_sizes(size, count) for size, count in zip(weight, scale, strict=True)]
    known = {sizes[0] for sizes, count in zip(readings, scale, strict=True) if len(sizes) == 1 and count > 1}
    fitting = [sizes if len(sizes) == 1 else [n for n in sizes if n in known] for sizes in readings]
    return tuple(sizes[0] for sizes in fitting) if all(len(sizes) == 1 for sizes in fitting) else None


def _block_sizes(size: int, count: int) -> list[int]:
    """Return how large `count` blocks along `size` may be: equal ones, or of a power of two with the last cut short."""
    if count == 1:
        return [size]
    largest = -(-size // count)
    power = 1 << (largest - 1).bit_length()
    equal = [largest] if size % count == 0 else []
    return list(dict.fromkeys([*equal, *([power] if -(-size // power) == count else [])]))


def from_stored_shape(fit: Fit, source: Leaf, specs: Mapping[str, TensorSpec]) -> Fit:
    """Return how a leaf fits, from the shape that its tensor has in the file on; that of a part, whose cut sees to it, is kept."""
    ops = reshape_to_matched(source, specs)
    if fit.ops is None or not ops:
        return fit
    text = f"{list(specs[source.keys[0]].shape)} seen as {list(whole(source))}" + (fit.text and f", {fit.text}")
    return replace(fit, ops=fit.ops if source.part else (*ops, *fit.ops), text=text)


def reshape_to_matched(source: Leaf, specs: Mapping[str, TensorSpec]) -> tuple[Reshape, ...]:
    """Return the op that gives the tensor of a leaf the axes with which it was matched, none where it has them."""
    shape = whole(source)
    return () if source.form != "plain" or specs[source.keys[0]].shape == shape else (Reshape(shape),)


def whole(source: Leaf) -> Shape:
    """Return the shape of the tensor that a leaf is, or is a part of."""
    part = source.part
    return source.shape if part is None else (*source.shape[: part.dim], part.total, *source.shape[part.dim + 1 :])
