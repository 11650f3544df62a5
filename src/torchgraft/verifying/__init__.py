"""Proof that a load did what it says."""

from torchgraft.verifying.values.digests import check_digests
from torchgraft.verifying.values.suspicions import suspect, with_suspicions
from torchgraft.verifying.values.told import with_values
from torchgraft.verifying.values.written import compare_values

__all__ = ["check_digests", "compare_values", "suspect", "with_suspicions", "with_values"]
