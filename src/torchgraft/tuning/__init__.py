"""Afterwards: freeze what was loaded, and train what is new at a rate of its own."""

from torchgraft.tuning.benefit import Benefit, compare_starts
from torchgraft.tuning.freezing import Frozen, freeze
from torchgraft.tuning.groups import param_groups
from torchgraft.tuning.masks import loaded_masks
from torchgraft.tuning.optimizer import CarriedState, carry_state

__all__ = [
    "Benefit",
    "CarriedState",
    "Frozen",
    "carry_state",
    "compare_starts",
    "freeze",
    "loaded_masks",
    "param_groups",
]
