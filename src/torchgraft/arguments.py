"""What a caller may say to plan(), load() and build(): their keyword arguments as one typed list (PEP 692)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from torchgraft.core.choices import Accept, OnDoubt, QkvLayout
from torchgraft.core.policy import Policy

if TYPE_CHECKING:
    import os

    from torchgraft.adapting import AxisNames
    from torchgraft.learning import Learned


# What other functions for the same end call an argument, and what it is called here.
OTHER_WORDS = {
    "exclude_keys": "fresh", "ignore": "fresh", "ignore_keys": "fresh", "skip": "fresh", "skip_keys": "fresh",
    "map": "rename", "mapping": "rename", "key_mapping": "rename", "revise_keys": "rename", "strip_prefix": "rename",
    "copy": "copies", "transpose": "permute", "fuse": "fuse_branches", "state_dict_key": "prefer",
    "param_key": "prefer", "use_ema": "prefer", "ema": "prefer", "lora": "merge_lora", "key": "prefer", "checkpoint_key": "prefer",
    "zero_init": "zero", "in_chans": "in_channels",
}  # fmt: skip


class Arguments(TypedDict, total=False):
    """The keyword arguments that plan(), load() and build() share; load() says what each of them means."""

    rename: Mapping[str, str] | None
    fan_out: Mapping[str, Sequence[str]] | None
    layers: Mapping[str, Sequence[int]] | None
    copies: Mapping[str, str] | None
    fresh: Sequence[str]
    zero: Sequence[str]
    init: Mapping[str, str] | None
    source_model: object
    inputs: object
    source_inputs: object
    golden: str | os.PathLike[str] | None
    prefer: str | None
    learned: Learned | str | os.PathLike[str] | None
    statistics: bool
    on_doubt: OnDoubt
    accept: Accept
    min_coverage: float | None
    strict: bool
    policy: Policy | None
    grow_rows: Sequence[str] | Mapping[str, str]
    axis_names: Mapping[str, AxisNames] | None
    class_names: Mapping[str, Sequence[str]] | None
    class_rows: Mapping[str, int] | None
    merge_lora: bool | float
    fuse_branches: bool | float
    fold_norms: bool | float
    qkv_layout: QkvLayout | Mapping[str, str] | None
    num_heads: int | None
    kernels: Mapping[str, str] | None
    in_channels: Mapping[str, str] | None
    grids: Mapping[str, tuple[tuple[int, int], tuple[int, int]]] | None
    permute: Mapping[str, Sequence[int]] | None
    tensor_parallel: Mapping[str, str] | None
