"""Why the judge doubts a pair."""

from __future__ import annotations

from torchgraft.core.plan import Doubt

BESIDE = Doubt(
    "adjoined", "a layer of the same shapes stays free beside it, and nothing in between tells which of them it was"
)
BY_ORDER = Doubt("by_order", "names don't say it, and layers of the same shapes could change places")
OTHER_NAME = Doubt("other_name", "its shape fits, its name doesn't")
NO_MARGIN = Doubt("no_margin", "another reading fits nearly as well")
