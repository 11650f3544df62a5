"""Afterwards: freeze what was loaded, and train what is new at a rate of its own."""

from torchgraft.tuning.freezing import Frozen, freeze
from torchgraft.tuning.groups import param_groups

__all__ = ["Frozen", "freeze", "param_groups"]
