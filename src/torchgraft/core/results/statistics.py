"""What the values of a checkpoint look like, tensor by tensor, and what is strange about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import hypot
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Figures of one tensor of real numbers; those but `odd` are of its finite elements, 0.0 where there are none.

    `rms` is the root of the mean square, `kurtosis` the fourth standardised moment (3 for a normal distribution, 1.8 for
    a uniform one). `odd` elements are NaN or infinite. `below` counts what is zero or negative, in tensors of one
    dimension. Of the slices along the first dimension of a tensor with two or
    more, `zero_rows` are zero throughout, and `even_rows` one value throughout (zero included).
    """

    numel: int
    odd: int = 0
    least: float = 0.0
    greatest: float = 0.0
    mean: float = 0.0
    std: float = 0.0
    kurtosis: float = 0.0
    below: int = 0
    rows: int = 0
    zero_rows: int = 0
    even_rows: int = 0

    @property
    def rms(self) -> float:
        """Root of the mean square."""
        return hypot(self.mean, self.std)

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(abs(self.least), abs(self.greatest))

    @property
    def constant(self) -> bool:
        """Whether all elements are one finite number."""
        return self.numel > 0 and not self.odd and self.least == self.greatest


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspicion:
    """Something strange about values: which rule found it, in words with the figures, and the tensors concerned."""

    rule: str
    text: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Figures of all tensors of real numbers that were read, by name, and what is strange about them."""

    tensors: Mapping[str, Moments] = field(default_factory=dict)
    suspicions: tuple[Suspicion, ...] = ()
