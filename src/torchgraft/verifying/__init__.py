"""Proof that a load did what it says."""

from torchgraft.verifying.digests import check_digests
from torchgraft.verifying.suspicions import suspect, with_suspicions
from torchgraft.verifying.told_by_values import with_values
from torchgraft.verifying.values import compare_values

__all__ = ["check_digests", "compare_values", "suspect", "with_suspicions", "with_values"]
