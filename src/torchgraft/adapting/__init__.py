"""From claims to a plan: ops that make shapes fit, one step per slot, one fate per source tensor, all objections."""

from torchgraft.adapting.adapt import adapt, requested_steps, weighed
from torchgraft.adapting.context import PlanContext
from torchgraft.adapting.copies import copied
from torchgraft.adapting.objections import objections_to
from torchgraft.adapting.options import AxisNames, Options
from torchgraft.adapting.ranks import rank_note
from torchgraft.adapting.remarks import named_row_notes
from torchgraft.adapting.resized import KERNEL_RULES
from torchgraft.adapting.rewrites import Preferences, with_preferences
from torchgraft.adapting.starts import STARTS
from torchgraft.adapting.unmatched import SecondNames
from torchgraft.adapting.views import views_of

__all__ = [
    "KERNEL_RULES",
    "STARTS",
    "AxisNames",
    "Options",
    "PlanContext",
    "Preferences",
    "SecondNames",
    "adapt",
    "copied",
    "named_row_notes",
    "objections_to",
    "rank_note",
    "requested_steps",
    "views_of",
    "weighed",
    "with_preferences",
]
