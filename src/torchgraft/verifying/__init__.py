"""Checks of what was loaded: stored values, values read back after writing, and runs of both models."""

from torchgraft.verifying.values.digests import check_digests
from torchgraft.verifying.values.plan_checks import check_values
from torchgraft.verifying.values.readback import compare_values
from torchgraft.verifying.values.repeats import find_repeats
from torchgraft.verifying.values.suspicions import find_suspicions, with_suspicions

__all__ = ["check_digests", "check_values", "compare_values", "find_repeats", "find_suspicions", "with_suspicions"]
