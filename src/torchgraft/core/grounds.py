"""The grounds on which a plan decides: what a `Why` names as its rule."""

from __future__ import annotations

from enum import StrEnum


class Ground(StrEnum):
    """The rule that made a decision about a slot or a source tensor; its text is what reports and kept plans say."""

    # the caller's word
    USER_RULE = "user rule"
    # names
    SAME_NAME = "same name"
    SPELLING = "spelling"  # dots, wrappers of older torch: the file spells the same name in another way
    LOAD_HOOK = "load hook"  # the model's own hook renames it
    WRAPPER = "wrapper"
    PREFIX = "prefix"
    NAME = "name"  # the same role in a unit that corresponds
    # structure
    SEQUENCE = "sequence"
    STRUCTURE = "structure"
    LEFTOVER = "leftover"
    SHARED = "shared"  # once in the file, one per block in the model
    UNITED = "united"  # parts whose rows add up
    FUSED = "fused"
    FUSED_BRANCHES = "fused branches"
    FOLDED_NORM = "folded norm"
    ADAPTER = "adapter"
    EXPERTS = "experts"
    EXPERTS_LACKING = "experts lacking"
    RANKS = "ranks"  # shares of tensor parallel processes
    # adapted shapes
    POSITIONS = "positions"
    INPUT_CHANNELS = "input channels"
    KERNEL_SIZE = "kernel size"
    INFLATED_KERNEL = "inflated kernel"
    NAMES = "names"  # rows follow names
    GROWN_ROWS = "grown rows"
    CUT_ROWS = "cut rows"
    # runs of both models
    NUMBERS = "numbers"
    # why something is not filled, or not used
    NO_COUNTERPART = "no counterpart"
    SHAPE = "shape"
    FORM = "form"  # stored in a form that the slot can't take
    QUANTISED = "quantised"
    DOUBT = "doubt"
    DERIVED = "derived"
    ALIAS = "alias"  # another name of a tensor that is used
    ECHO = "echo"  # a second copy of a tensor that is used
    SHARD = "shard"  # another process holds it
