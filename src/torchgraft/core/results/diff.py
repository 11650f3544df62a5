"""How two checkpoints differ, tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torchgraft.core.shown import Renderers, Shown
from torchgraft.core.specs import TensorSpec


@dataclass(frozen=True, slots=True)
class Distance:
    """How far the values of two tensors lie apart: elements that differ, and the greatest absolute difference.

    A NaN in both places is no difference; a NaN on one side makes the greatest difference infinite.
    """

    elements: int
    greatest: float


@dataclass(frozen=True, slots=True)
class Change:
    """One name on both sides; `distance` is None where values were not compared (or can't be: other shapes)."""

    old: TensorSpec
    new: TensorSpec
    distance: Distance | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Diff(Shown):
    """Every tensor of both sides in exactly one group. `values` says whether values were compared.

    A tensor under another dtype is in `dtype_changed`, whatever its values. `same` means equal name, shape and dtype,
    and equal values where they were compared. `old_names` and `new_names` are second names of tied tensors that one side
    alone has or states, each with the name that both have: nothing is added or removed by them. `hint` is a remark on why so
    little agrees, `notes` say which network was compared where a file holds several that could be meant, and which others it
    holds.
    """

    old: str
    new: str
    values: bool
    added: tuple[TensorSpec, ...] = ()
    removed: tuple[TensorSpec, ...] = ()
    shape_changed: tuple[Change, ...] = ()
    dtype_changed: tuple[Change, ...] = ()
    value_changed: tuple[Change, ...] = ()
    same: tuple[TensorSpec, ...] = ()
    old_names: Mapping[str, str] = field(default_factory=dict)
    new_names: Mapping[str, str] = field(default_factory=dict)
    hint: str = ""
    notes: tuple[str, ...] = ()
    renderers: Renderers | None = field(default=None, repr=False, compare=False)

    @property
    def equal(self) -> bool:
        """Whether nothing differs in what was compared; second names of a tensor that both sides have are no difference."""
        changed = (self.added, self.removed, self.shape_changed, self.dtype_changed, self.value_changed)
        return not any(changed)
