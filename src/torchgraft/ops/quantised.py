"""Ops that turn packed or scaled integers and 8-bit floats back into weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from torchgraft.core.dtypes import DType
from torchgraft.core.errors import CorruptCheckpointError
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp
from torchgraft.ops.resample import size_words


def _blocks(shape: Shape, block: tuple[int, ...]) -> Shape:
    """Return how many blocks lie along each dimension; the last one may be cut off."""
    return tuple(-(-n // b) for n, b in zip(shape, block, strict=True))


@dataclass(frozen=True, slots=True)
class DequantBlocks(BaseOp):
    """Multiplies each block of a weight by its scale: (weight, scale) becomes weight * scale.

    `block` is the size of a block along each dimension: (128, 128) in DeepSeek's 8-bit float files
    (`weight_scale_inv`), (1, in) for a scale per row, () for one scale for the whole tensor. Whatever the scale's
    dimensions, it has one value per block. Returns float32. Memory: one float32 copy of the
    weight and, for blocks narrower than a row, one row of scales per row of blocks.
    """

    block: tuple[int, ...] = ()

    name = "dequant_blocks"

    def __post_init__(self) -> None:
        self.expect_sizes("block", self.block)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 2)
        weight, scale = specs
        block = self.block or weight.shape
        self.expect(specs, f"a block has {len(block)} dimensions", that=len(block) == len(weight.shape))
        count = prod(_blocks(weight.shape, block)) if self.block else 1
        need = f"there should be {count} scales, one per block {size_words(block)}"
        self.expect(specs, need, that=scale.numel == count)
        self.expect(specs, f"scales are floats, not {scale.dtype}", that=scale.dtype.is_float)
        return TensorSpec(weight.name, weight.shape, DType.F32)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        weight, scale = values
        out = weight.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not self.block:
            return out.mul_(scale.to(out.dtype).reshape(()))
        _scale_blocks(out, scale.to(out.dtype).reshape(_blocks(tuple(weight.shape), self.block)), self.block)
        return out

    def describe(self) -> str:
        return f"dequantised by {f'blocks of {size_words(self.block)}' if self.block else 'one scale'}"


def _scale_blocks(out: Tensor, scales: Tensor, block: tuple[int, ...]) -> None:
    """Multiply each block of `out`, in place, by its value of `scales`."""
    for dim in range(1, out.dim()):
        if scales.shape[dim] > 1:
            scales = scales.repeat_interleave(block[dim], dim).narrow(dim, 0, out.shape[dim])
    rows = out.shape[0] // block[0]
    if rows:
        out[: rows * block[0]].view(rows, block[0], *out.shape[1:]).mul_(scales[:rows].unsqueeze(1))
    if rows < scales.shape[0]:
        out[rows * block[0] :].mul_(scales[rows:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Dequant4bit(BaseOp):
    """Unpacks 4-bit codes of bitsandbytes (nf4, fp4) into a weight of `shape`.

    Inputs: (packed, absmax, quant_map[, quant_state]); what the quant_state, JSON as bytes, says counts instead of the fields
    here. A byte holds two codes, the first in its high half; element i is quant_map[code i] * absmax[i // blocksize]. Layout
    of bitsandbytes' `QuantState`; QLoRA, Dettmers et al. 2023 (arXiv:2305.14314), without its nested statistics. Returns
    float32. Memory: the result and half its size in indices.
    """

    shape: tuple[int, ...]
    blocksize: int = 64

    name = "dequant_4bit"

    def __post_init__(self) -> None:
        self.expect_sizes("shape", self.shape)
        self.expect_sizes("blocksize", (self.blocksize,))

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 3, 4)
        packed, _, quant_map = specs[:3]
        size = -(-prod(self.shape) // 2)
        self.expect(specs, f"{list(self.shape)} takes {size} packed bytes", that=packed.nbytes == size)
        self.expect(specs, "the map of codes should have 16 values", that=quant_map.numel == 16)
        self.expect(specs, f"the map holds floats, not {quant_map.dtype}", that=quant_map.dtype.is_float)
        return TensorSpec(packed.name, self.shape, DType.F32)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the weight.

        Raises:
            CorruptCheckpointError: the quant_state contradicts the shape, or there are too few block scales.
        """
        import torch

        state = self._state(values[3]) if len(values) == 4 else {}
        block = state.get("blocksize", self.blocksize)
        scale = values[1].to(torch.float32)
        codes = values[2].to(torch.float32)
        pairs = torch.stack([codes.repeat_interleave(16), codes.repeat(16)], 1)
        packed = values[0].contiguous().flatten().view(torch.uint8)
        flat = pairs.index_select(0, packed.to(torch.int32)).flatten()[: prod(self.shape)]
        need = -(-flat.numel() // block)
        if scale.numel() != need:
            raise CorruptCheckpointError(f"{scale.numel()} block scales for a 4-bit weight that has {need} blocks")
        _scale_blocks(flat, scale.flatten(), (block,))
        return flat.reshape(self.shape)

    def _state(self, value: Tensor) -> dict[str, Any]:
        """Return what the quant_state tensor says, checked against `shape`."""
        state = read_quant_state(bytes(value.flatten().tolist()))
        shape = state.get("shape")
        if shape is not None and tuple(shape) != self.shape:
            raise CorruptCheckpointError(f"the 4-bit weight says that its shape is {shape}, not {list(self.shape)}")
        return state

    def describe(self) -> str:
        return f"4-bit codes unpacked to {list(self.shape)}, blocks of {self.blocksize}"


def read_quant_state(data: bytes) -> dict[str, Any]:
    """Return the facts in a quant_state record, of which blocksize and shape are used.

    Raises:
        CorruptCheckpointError: no JSON object, or a size that is no positive integer.
    """
    try:
        state = json.loads(data)
    except ValueError as error:
        raise CorruptCheckpointError("the quant_state of a 4-bit weight is no JSON") from error
    if not isinstance(state, dict):
        raise CorruptCheckpointError("the quant_state of a 4-bit weight is no JSON object")
    shape = state.get("shape", [])
    sizes = [state.get("blocksize", 1), *shape] if isinstance(shape, list) else [None]
    if not all(isinstance(n, int) and n > 0 for n in sizes):
        raise CorruptCheckpointError("the quant_state of a 4-bit weight holds impossible sizes")
    return state
