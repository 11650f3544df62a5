"""The only writer: fills a model by a plan, all or nothing."""

from torchgraft.applying.construct import Constructor, build_on_meta, build_with_values
from torchgraft.applying.execution import Applied
from torchgraft.applying.manner import Manner
from torchgraft.applying.mapping import Placement
from torchgraft.applying.memory_estimate import estimate_memory
from torchgraft.applying.transaction import apply, expect_values

__all__ = [
    "Applied",
    "Constructor",
    "Manner",
    "Placement",
    "apply",
    "build_on_meta",
    "build_with_values",
    "estimate_memory",
    "expect_values",
]
