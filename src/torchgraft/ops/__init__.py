"""What can be done to a tensor. Each op knows its shape law, its computation, its inverse and its plain form.

`from_dict` reads back what `op.to_dict()` gave; `OPS` is the one table of all ops.
"""

from __future__ import annotations

from torchgraft.ops.base import BaseOp
from torchgraft.ops.exact import Cast, Index, Permute, Reshape, SelectRows, SliceDim, Transpose
from torchgraft.ops.heads import HeadsToParts, PartsToHeads, RotaryLayout
from torchgraft.ops.joining import Concat, Constant, InsertZeros, JoinRanks, Stack
from torchgraft.ops.plain import read_op

OPS: tuple[type[BaseOp], ...] = (
    Transpose,
    Permute,
    Reshape,
    SliceDim,
    SelectRows,
    Index,
    Cast,
    Concat,
    Stack,
    JoinRanks,
    Constant,
    InsertZeros,
    HeadsToParts,
    PartsToHeads,
    RotaryLayout,
)

_BY_NAME = {op.name: op for op in OPS}


def from_dict(data: object) -> BaseOp:
    """Return the op that `data`, the result of some `op.to_dict()`, stands for.

    Raises:
        UsageError: no mapping, an unknown op, a field that is missing or too many, or a value of the wrong type.
    """
    return read_op(data, _BY_NAME)


__all__ = [
    "OPS",
    "BaseOp",
    "Cast",
    "Concat",
    "Constant",
    "HeadsToParts",
    "Index",
    "InsertZeros",
    "JoinRanks",
    "PartsToHeads",
    "Permute",
    "Reshape",
    "RotaryLayout",
    "SelectRows",
    "SliceDim",
    "Stack",
    "Transpose",
    "from_dict",
]
