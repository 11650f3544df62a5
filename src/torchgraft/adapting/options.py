"""Facts about axes that only the caller knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Grid = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassRows:
    """Class names of both sides, and how many rows of which module belong to one class."""

    source: Sequence[str]
    target: Sequence[str]
    modules: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What axes mean where tensors can't tell.

    grow_rows: tables that may grow at their end; the old rows are copied, the new ones stay fresh.
    classes: rows follow class names. in_channels: rule for further input channels by slot name.
    grids: source and target grid (height, width) of a position table by slot name.
    permute: order of dimensions by pattern of slot names.
    merge_lora: add low-rank adapters to the model's weights; a number is their scale where the file holds no alpha.
    fold_norms: fold the file's batch norms into the layers before them; a number is their eps.
    init: start of added layers by pattern: "identity", "zero" or "zero-gamma".
    fuse_branches: fuse parallel training branches into the model's single convolutions.
    """

    grow_rows: Sequence[str] = ()
    classes: ClassRows | None = None
    in_channels: Mapping[str, str] = field(default_factory=dict)
    grids: Mapping[str, tuple[Grid, Grid]] = field(default_factory=dict)
    permute: Mapping[str, Sequence[int]] = field(default_factory=dict)
    merge_lora: bool | float = False
    fuse_branches: bool = False
    fold_norms: bool | float = False
    init: Mapping[str, str] = field(default_factory=dict)
