"""A conversion of a state dict as plain data: where every element of every tensor that it makes comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torchgraft.core.plan import Feed, Op
from torchgraft.core.shown import Renderers, Shown
from torchgraft.core.specs import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A tensor that a conversion makes by moving data: feeds go through their own ops, then `ops` join the results.

    Without feeds the ops make a constant.
    """

    spec: TensorSpec
    feeds: tuple[Feed, ...] = ()
    ops: tuple[Op, ...] = ()

    @property
    def name(self) -> str:
        """Its name."""
        return self.spec.name

    @property
    def keys(self) -> tuple[str, ...]:
        """The source tensors that feed it, each once."""
        return tuple(dict.fromkeys(feed.key for feed in self.feeds))

    @property
    def plain(self) -> bool:
        """Whether it is one source tensor as it is, under whatever name."""
        return len(self.feeds) == 1 and not self.feeds[0].ops and not self.ops


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A tensor that a conversion makes by more than moving data, why that is known, and what it depends on.

    `keys` are source tensors whose values change it; `complete` is False where there are too many to name.
    """

    spec: TensorSpec
    why: str
    keys: tuple[str, ...] = ()
    complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """A tensor of a checkpoint that can't be made of the model's, and why."""

    spec: TensorSpec
    why: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Conversion(Shown):
    """What a conversion does to a state dict of these `sources`: `outputs` are moves of data, `computed` are not.

    `skipped` are entries of its result that are no tensors. Of a plan that was turned round, `absent` are tensors of the
    checkpoint that it doesn't give back, and `partly` those of the model that have parts without a place in the checkpoint.
    """

    sources: Mapping[str, TensorSpec]
    outputs: tuple[Output, ...]
    computed: tuple[Computed, ...] = ()
    skipped: tuple[str, ...] = ()
    absent: tuple[Absent, ...] = ()
    partly: tuple[str, ...] = ()
    renderers: Renderers | None = field(default=None, repr=False, compare=False)

    @cached_property
    def by_name(self) -> Mapping[str, Output]:
        """Outputs by name."""
        return {output.name: output for output in self.outputs}

    @cached_property
    def dropped(self) -> tuple[str, ...]:
        """Source tensors that nothing is made of, in the order of the source."""
        used = {key for output in self.outputs for key in output.keys} | {k for c in self.computed for k in c.keys}
        return tuple(name for name in self.sources if name not in used)

    @property
    def complete(self) -> bool:
        """Whether every tensor that the conversion makes is a move of data or a constant, and none is absent."""
        return not (self.computed or self.absent)
