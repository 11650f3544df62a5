"""Ops that turn packed or scaled integers and 8-bit floats back into weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torchgraft.core.errors import CorruptCheckpointError, UsageError
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp
from torchgraft.ops.exact import torch_dtype
from torchgraft.ops.resample import size_words


def _blocks(shape: Shape, block: tuple[int, ...]) -> Shape:
    """Return how many blocks lie along each dimension; the last one may be cut off."""
    return tuple(-(-n // b) for n, b in zip(shape, block, strict=True))


@dataclass(frozen=True, slots=True)
class DequantBlocks(BaseOp):
    """Multiplies each block of a weight by its scale: (weight, scale[, zero]) becomes (weight - zero) * scale.

    `block` is the size of a block along each dimension: (128, 128) in DeepSeek's 8-bit float files
    (`weight_scale_inv`), (1, in) for a scale per row, () for one scale for the whole tensor. Whatever the scale's
    dimensions, it has one value per block. Computes in float32, returns `dtype`. Memory: one float32 copy of the
    weight and, for blocks narrower than a row, one row of scales per row of blocks.
    """

    block: tuple[int, ...] = ()
    dtype: str = "float32"

    name = "dequant_blocks"

    def __post_init__(self) -> None:
        self.expect_sizes("block", self.block)
        self.dtype_of(self.dtype)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 2, 3)
        weight, *rest = specs
        block = self.block or weight.shape
        self.expect(specs, f"a block has {len(block)} dimensions", that=len(block) == len(weight.shape))
        count = prod(_blocks(weight.shape, block)) if self.block else 1
        need = f"there should be {count} scales, one per block {size_words(block)}"
        self.expect(specs, need, that=all(s.numel == count for s in rest))
        self.expect(specs, f"scales are floats, not {rest[0].dtype}", that=rest[0].dtype.is_float)
        return TensorSpec(weight.name, weight.shape, self.dtype_of(self.dtype))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        weight, scale, *zero = values
        out = weight.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not self.block:
            out.sub_(zero[0].to(out.dtype).reshape(())) if zero else None
            return out.mul_(scale.to(out.dtype).reshape(())).to(torch_dtype(self.dtype))
        count = _blocks(tuple(weight.shape), self.block)
        if zero:
            _each_block(out, zero[0].to(out.dtype).reshape(count), self.block, torch.Tensor.sub_)
        _each_block(out, scale.to(out.dtype).reshape(count), self.block, torch.Tensor.mul_)
        return out.to(torch_dtype(self.dtype))

    def describe(self) -> str:
        return f"dequantised by {f'blocks of {size_words(self.block)}' if self.block else 'one scale'}"


def _each_block(
    out: Tensor,
    per_block: Tensor,
    block: tuple[int, ...],
    change: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Apply `change` (mul_, sub_) to each block of `out`, in place, with its value of `per_block`."""
    for dim in range(1, out.dim()):
        if per_block.shape[dim] > 1:
            per_block = per_block.repeat_interleave(block[dim], dim).narrow(dim, 0, out.shape[dim])
    rows = out.shape[0] // block[0]
    if rows:
        whole = out[: rows * block[0]].view(rows, block[0], *out.shape[1:])
        change(whole, per_block[:rows].unsqueeze(1))
    if rows < per_block.shape[0]:
        change(out[rows * block[0] :], per_block[rows:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequant4bit(BaseOp):
    """Unpacks 4-bit codes of bitsandbytes (nf4, fp4) into a weight of `shape`.

    Inputs: (packed, absmax, quant_map), or with nested statistics (packed, absmax, quant_map, nested_absmax,
    nested_quant_map); either may end with the quant_state tensor, JSON as bytes, whose sizes and offset then count
    instead of the fields here. A byte holds two codes, the first in its high half; element i is
    quant_map[code i] * absmax[i // blocksize]. Nested: absmax j is nested_quant_map[absmax j] *
    nested_absmax[j // nested_blocksize] + nested_offset. Layout of bitsandbytes' `QuantState`; QLoRA, Dettmers et al.
    2023 (arXiv:2305.14314). Memory: the result in float32 and half its size in indices.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    blocksize: int = 64
    nested_blocksize: int = 256
    nested_offset: float = 0.0

    name = "dequant_4bit"

    def __post_init__(self) -> None:
        self.expect_sizes("shape", self.shape)
        self.dtype_of(self.dtype)
        if min(self.blocksize, self.nested_blocksize) < 1:
            raise UsageError(f"{self.name}: blocks of {self.blocksize} and {self.nested_blocksize} make no sense")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 3, 4, 5, 6)
        packed, _, quant_map = specs[:3]
        size = -(-prod(self.shape) // 2)
        self.expect(specs, f"{list(self.shape)} takes {size} packed bytes", that=packed.nbytes == size)
        self.expect(specs, "the map of codes should have 16 values", that=quant_map.numel == 16)
        self.expect(specs, f"the map holds floats, not {quant_map.dtype}", that=quant_map.dtype.is_float)
        return TensorSpec(packed.name, self.shape, self.dtype_of(self.dtype))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the weight.

        Raises:
            CorruptCheckpointError: the quant_state contradicts the shape, or there are too few block scales.
        """
        import torch

        state = self._state(values[-1]) if len(values) in (4, 6) else {}
        block = state.get("blocksize", self.blocksize)
        scale = self._absmax(values, state)
        codes = values[2].to(torch.float32)
        pairs = torch.stack([codes.repeat_interleave(16), codes.repeat(16)], 1)
        packed = values[0].contiguous().flatten().view(torch.uint8)
        flat = pairs.index_select(0, packed.to(torch.int32)).flatten()[: prod(self.shape)]
        need = -(-flat.numel() // block)
        if scale.numel() != need:
            raise CorruptCheckpointError(f"{scale.numel()} block scales for a 4-bit weight that has {need} blocks")
        _each_block(flat, scale.flatten(), (block,), torch.Tensor.mul_)
        return flat.reshape(self.shape).to(torch_dtype(self.dtype))

    def _state(self, value: Tensor) -> dict[str, Any]:
        """Return what the quant_state tensor says, checked against `shape`."""
        state = read_quant_state(bytes(value.flatten().tolist()))
        shape = state.get("shape")
        if shape is not None and tuple(shape) != self.shape:
            raise CorruptCheckpointError(f"the 4-bit weight says that its shape is {shape}, not {list(self.shape)}")
        return state

    def _absmax(self, values: Sequence[Tensor], state: dict[str, Any]) -> Tensor:
        """Return the scale of each block in float32, its own quantisation undone."""
        import torch

        if len(values) < 5:
            return values[1].to(torch.float32)
        codes, block = values[4].to(torch.float32), state.get("nested_blocksize", self.nested_blocksize)
        flat = codes.index_select(0, values[1].flatten().to(torch.int32))
        _each_block(flat, values[3].to(torch.float32).flatten(), (block,), torch.Tensor.mul_)
        return flat.add_(state.get("nested_offset", self.nested_offset))

    def describe(self) -> str:
        return f"4-bit codes unpacked to {list(self.shape)}, blocks of {self.blocksize}"


def read_quant_state(data: bytes) -> dict[str, Any]:
    """Return the facts in a quant_state record: blocksize, shape, dtype, nested_blocksize, nested_offset.

    Raises:
        CorruptCheckpointError: no JSON object, or a size that is no positive integer.
    """
    try:
        state = json.loads(data)
    except ValueError as error:
        raise CorruptCheckpointError("the quant_state of a 4-bit weight is no JSON") from error
    if not isinstance(state, dict):
        raise CorruptCheckpointError("the quant_state of a 4-bit weight is no JSON object")
    sizes = [state[k] for k in ("blocksize", "nested_blocksize") if k in state]
    shape, offset = state.get("shape", []), state.get("nested_offset", 0.0)
    whole = [*sizes, *shape] if isinstance(shape, list) else [None]
    if not all(isinstance(n, int) and n > 0 for n in whole) or not isinstance(offset, (int, float)):
        raise CorruptCheckpointError("the quant_state of a 4-bit weight holds impossible sizes")
    return state
