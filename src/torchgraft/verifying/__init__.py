"""Proof that a load did what it says."""

from torchgraft.verifying.values.digests import check_digests
from torchgraft.verifying.values.plan_checks import with_values
from torchgraft.verifying.values.readback import compare_values
from torchgraft.verifying.values.suspicions import suspect, with_suspicions

__all__ = ["check_digests", "compare_values", "suspect", "with_suspicions", "with_values"]
