"""A model, or the list of names of one, as slots: what is to be filled, before anything is."""

from torchgraft.surveying.hooks import Renames, rename_by_hooks
from torchgraft.surveying.slots import survey, target_from_specs
from torchgraft.surveying.unheard import unheard

__all__ = ["Renames", "rename_by_hooks", "survey", "target_from_specs", "unheard"]
