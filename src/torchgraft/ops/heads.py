"""Row orders of attention weights: parts per head against heads per part, and the two rotary layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, axis_words
from torchgraft.ops.exact import gather, inverse_permutation


def _same_rows(op: BaseOp, specs: Sequence[TensorSpec], dim: int, multiple: int) -> TensorSpec:
    """Return the single input's spec, unless its size along `dim` is no multiple of `multiple` (UsageError)."""
    op.expect_count(specs, 1)
    op.expect_dim(specs, dim)
    need = f"dimension {dim} must be a multiple of {multiple}"
    op.expect(specs, need, that=specs[0].shape[dim] % multiple == 0)
    return specs[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _GroupedRows(BaseOp):
    """Rows along `dim` that fall into groups of parts, in one order or the other: heads with their q, k and v.

    `parts` gives the relative sizes of the parts within one of `groups` equal groups: (1, 1, 1) for q, k, v of each
    head (GPT-NeoX, BLOOM); (4, 1, 1) for a group of four query heads with its key and value head (grouped-query);
    (1, 1) with a group per feature for interleaved gate and up rows.
    """

    groups: int
    parts: tuple[int, ...]
    dim: int = 0

    lossless = True

    def __post_init__(self) -> None:
        if self.groups < 1 or not self.parts or any(part < 1 for part in self.parts):
            raise UsageError(f"{self.name}: {self.groups} groups of parts {list(self.parts)} make no sense")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        return _same_rows(self, specs, self.dim, self.groups * sum(self.parts))

    def _order(self, size: int) -> list[int]:
        """Return, for `size` rows stored group by group, the source row of each row stored part by part."""
        per_group = size // self.groups
        unit = per_group // sum(self.parts)
        starts = list(accumulate((part * unit for part in self.parts), initial=0))
        return [g * per_group + i for s, e in pairwise(starts) for g in range(self.groups) for i in range(s, e)]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsToParts(_GroupedRows):
    """Reorders rows stored head by head, [head, part, row], to part by part, [part, head, row]."""

    name = "heads_to_parts"

    def run(self, values: Sequence[Tensor]) -> Tensor:
        return gather(values[0], self.dim, self._order(values[0].shape[self.dim]))

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        return (PartsToHeads(groups=self.groups, parts=self.parts, dim=self.dim),)

    def describe(self) -> str:
        return f"{axis_words(self.dim)} from {self.groups} heads × {_sizes(self.parts)} to part by part"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsToHeads(_GroupedRows):
    """Reorders rows stored part by part, [part, head, row], to head by head: undoes `HeadsToParts`."""

    name = "parts_to_heads"

    def run(self, values: Sequence[Tensor]) -> Tensor:
        return gather(values[0], self.dim, inverse_permutation(self._order(values[0].shape[self.dim])))

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        return (HeadsToParts(groups=self.groups, parts=self.parts, dim=self.dim),)

    def describe(self) -> str:
        return f"{axis_words(self.dim)} from part by part to {self.groups} heads × {_sizes(self.parts)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryLayout(BaseOp):
    """Reorders the rows of a query or key weight between the two layouts of rotary pairs.

    "interleaved" (the original Llama files, GPT-J) has the two rows of a pair beside each other: 0, 1 make the first
    pair. "half" (transformers' Llama, GPT-NeoX) has row i of the first half with row i of the second. The permutation is
    the one of transformers' Llama conversion, view(heads, d/2, 2, in).transpose(1, 2).
    """

    heads: int
    to: str
    dim: int = 0

    name = "rotary_layout"
    lossless = True

    def __post_init__(self) -> None:
        self.expect_choice("to", self.to, ("half", "interleaved"))
        self.expect_sizes("heads", (self.heads,))

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        return _same_rows(self, specs, self.dim, 2 * self.heads)

    def run(self, values: Sequence[Tensor]) -> Tensor:
        per_head = values[0].shape[self.dim] // self.heads
        order = [*range(0, per_head, 2), *range(1, per_head, 2)]
        head = order if self.to == "half" else inverse_permutation(order)
        return gather(values[0], self.dim, [h * per_head + i for h in range(self.heads) for i in head])

    def inverse(self, specs: Sequence[TensorSpec]) -> tuple[BaseOp, ...]:
        self.out_spec(specs)
        other = "interleaved" if self.to == "half" else "half"
        return (RotaryLayout(heads=self.heads, to=other, dim=self.dim),)

    def describe(self) -> str:
        return f"rotary pairs of {self.heads} heads to {self.to} order"


def _sizes(parts: tuple[int, ...]) -> str:
    """Return relative part sizes in words: `3 parts`, `parts 4:1:1`."""
    return f"{len(parts)} parts" if set(parts) == {1} else f"parts {':'.join(map(str, parts))}"
