"""Proof that a load did what it says."""

from torchgraft.verifying.values import compare_values

__all__ = ["compare_values"]
