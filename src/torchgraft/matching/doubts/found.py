"""What rules of doubt look at: the pairs that were found, and what they leave over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torchgraft.matching.judging.judge import Pair
from torchgraft.matching.parts.units import Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The pairs that were found between the units of two sides.

    Those that differ both in sizes and in name leave their units `free` for others. `unordered`: the file is sorted by name.
    """

    pairs: Sequence[Pair]
    sources: Sequence[Unit]
    targets: Sequence[Unit]
    unordered: bool
    held: Sequence[Pair] = field(init=False)
    paired: tuple[frozenset[int], frozenset[int]] = field(init=False)
    free: tuple[Sequence[Unit], Sequence[Unit]] = field(init=False)  # the units of either side without a partner

    def __post_init__(self) -> None:
        held = [pair for pair in self.pairs if pair.fits or pair.named]
        object.__setattr__(self, "held", held)
        ends = frozenset([pair.source for pair in held]), frozenset([pair.target for pair in held])
        object.__setattr__(self, "paired", ends)
        free = [
            [unit for at, unit in enumerate(units) if at not in end]
            for units, end in zip(self.sides, ends, strict=True)
        ]
        object.__setattr__(self, "free", tuple(free))

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
