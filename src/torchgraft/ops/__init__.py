"""What can be done to a tensor. Each op knows its shape law, its computation, its inverse and its plain form.

`from_dict` reads back what `op.to_dict()` gave; `OPS` is the one table of all ops.
"""

from __future__ import annotations

from collections.abc import Iterable

from torchgraft.ops.adapters import DoraMerge, LohaMerge, LoraMerge
from torchgraft.ops.base import BaseOp
from torchgraft.ops.channels import AdaptInputChannels, CropKernel, InflateKernel, PadKernel
from torchgraft.ops.constants import Constant, Identity, Literal
from torchgraft.ops.exact import Cast, Index, Permute, Reshape, SelectRows, SliceDim, Transpose
from torchgraft.ops.from_plain import read_op
from torchgraft.ops.fusing import FuseBranches, FuseNormBias, FuseNormWeight
from torchgraft.ops.heads import HeadsToParts, PartsToHeads, RotaryLayout
from torchgraft.ops.joining import Concat, InsertZeros, JoinRanks, Stack
from torchgraft.ops.quantised import Dequant4bit, DequantBlocks
from torchgraft.ops.reparam import ApplyMask, Offset, SpectralNormBake, WeightNormBake, WeightNormSplit
from torchgraft.ops.resample import Resample1d, ResampleBiasTable, ResampleGrid, ResamplePatch
from torchgraft.ops.rows import MeanRows, PadRows
from torchgraft.ops.running import run_ops, run_step, step_specs

OPS: tuple[type[BaseOp], ...] = (
    # exact: rearrange, cut, join
    Transpose, Permute, Reshape, SliceDim, SelectRows, Index, Cast, Concat, Stack, JoinRanks, Constant, Literal,
    Identity, InsertZeros, HeadsToParts, PartsToHeads, RotaryLayout,
    # another size
    ResampleGrid, Resample1d, ResamplePatch, ResampleBiasTable, AdaptInputChannels, InflateKernel, PadKernel,
    CropKernel, MeanRows, PadRows,
    # another parametrization
    WeightNormBake, WeightNormSplit, SpectralNormBake, ApplyMask, Offset, FuseNormWeight, FuseNormBias, FuseBranches,
    LoraMerge, DoraMerge, LohaMerge, DequantBlocks, Dequant4bit,
)  # fmt: skip

_BY_NAME = {op.name: op for op in OPS}


def from_dict(data: object) -> BaseOp:
    """Return the op that `data`, the result of some `op.to_dict()`, stands for.

    Raises:
        UsageError: no mapping, an unknown op, a field that is missing or too many, or a value of the wrong type.
    """
    return read_op(data, _BY_NAME)


def read_ops(data: Iterable[object]) -> tuple[BaseOp, ...]:
    """Return the ops that a list of such stands for; raises as `from_dict` does."""
    return tuple(map(from_dict, data))


__all__ = [
    "OPS", "AdaptInputChannels", "ApplyMask", "BaseOp", "Cast", "Concat", "Constant", "CropKernel", "Dequant4bit",
    "DequantBlocks", "DoraMerge", "FuseBranches", "FuseNormBias", "FuseNormWeight", "HeadsToParts", "Identity",
    "Index", "InflateKernel", "InsertZeros", "JoinRanks", "Literal", "LohaMerge", "LoraMerge", "MeanRows",
    "Offset", "PadKernel", "PadRows", "PartsToHeads", "Permute", "Resample1d", "ResampleBiasTable", "ResampleGrid",
    "ResamplePatch", "Reshape", "RotaryLayout", "SelectRows", "SliceDim", "SpectralNormBake", "Stack", "Transpose",
    "WeightNormBake", "WeightNormSplit", "from_dict", "read_ops", "run_ops", "run_step", "step_specs",
]  # fmt: skip
