"""What rules of doubt look at: the pairs that were found, and what they leave over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.parts.units import Unit


@dataclass(frozen=True, kw_only=True)
class Found:
    """The pairs that were found between the units of two sides.

    Those that differ both in sizes and in name leave their units `free` for others. `registered`: which side comes as a model
    registers it. `ruled` are the sources whose tensors have their names from the caller, which tell nothing of others.
    """

    pairs: Sequence[Pair]
    sources: Sequence[Unit]
    targets: Sequence[Unit]
    registered: tuple[bool, bool]
    ruled: frozenset[int] = frozenset()

    @cached_property
    def held(self) -> Sequence[Pair]:
        """The pairs that fit, or agree in their names."""
        return [pair for pair in self.pairs if pair.fits or pair.named]

    @cached_property
    def paired(self) -> tuple[frozenset[int], frozenset[int]]:
        """The sources and the targets of these."""
        return frozenset([pair.source for pair in self.held]), frozenset([pair.target for pair in self.held])

    @cached_property
    def free(self) -> tuple[Sequence[Unit], Sequence[Unit]]:
        """The units of either side without a partner."""
        (sources, targets), (ours, theirs) = self.sides, self.paired
        return (
            [unit for at, unit in enumerate(sources) if at not in ours],
            [unit for at, unit in enumerate(targets) if at not in theirs],
        )

    @property
    def sides(self) -> tuple[Sequence[Unit], Sequence[Unit]]:
        """The units of both sides."""
        return self.sources, self.targets

    def units_of(self, pair: Pair) -> tuple[Unit, Unit]:
        """Return the source and the target of a pair."""
        return self.sources[pair.source], self.targets[pair.target]

    def with_units(self, *, unnamed: bool = False) -> Iterator[tuple[Pair, Unit, Unit]]:
        """Yield the pairs with their units; with `unnamed` those alone that have different names."""
        for pair in self.pairs:
            if not (unnamed and pair.named):
                yield pair, self.sources[pair.source], self.targets[pair.target]
