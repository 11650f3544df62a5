"""A model, or the list of names of one, as slots: what is to be filled, before anything is."""

from torchgraft.surveying.hooks import Renames, rename_by_hooks
from torchgraft.surveying.skipped_code import skipped_code
from torchgraft.surveying.slots import survey, target_from_specs

__all__ = ["Renames", "rename_by_hooks", "skipped_code", "survey", "target_from_specs"]
