"""Statistics of a tensor's values (extremes, mean, deviation, kurtosis, even rows) in one pass over its bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf, isfinite, prod, sqrt

from torchgraft.core.results.inspection import Moments
from torchgraft.core.specs import Network, Source, TensorSpec
from torchgraft.core.system.progress import Ticks
from torchgraft.core.types import Tensor

# Small enough that a piece and what is computed of it stay in the cache.
PIECE = 512 << 10
# Beyond this, fourth powers leave the range of float32.
POWERS_OVERFLOW = 1e9
# The largest variance that is reported.
MAX_VARIANCE = 1e300


def measure_moments(
    source: Source, network: Network, names: Iterable[str], progress: Callable[[int, int], None] | None = None
) -> dict[str, Moments]:
    """Return the statistics of those tensors that hold real floating-point numbers, read in file order.

    In memory at one time: a piece of one tensor, and a few of its size. A tensor that lies there under
    several names is read once, under the first. `progress` is called with bytes done and in all.

    Raises:
        CheckpointError: a tensor can't be read.
    """
    shared = network.shared or {}
    wanted = [n for n in names if n not in shared and network.specs[n].dtype.is_float and network.specs[n].numel]
    found = {}
    ticks = Ticks(progress, sum(network.specs[name].nbytes for name in wanted))
    for name in sorted(wanted, key=lambda name: source.position(network.path, name)):
        found[name] = _moments(source, network.path, network.specs[name], ticks)
    return {name: found[name] for name in wanted}


def _moments(source: Source, network: str, spec: TensorSpec, ticks: Ticks) -> Moments:
    import torch

    rows = spec.shape[0] if len(spec.shape) > 1 else 0
    width = prod(spec.shape[1:]) if rows else 1
    sums = _RunningSums(by_row=rows > 0)
    itemsize = spec.dtype.itemsize
    # Whole rows where a piece holds one: a row that is longer is looked at in parts, and not as a row.
    size = max(PIECE // (width * itemsize), 1) * width * itemsize
    if width * itemsize > PIECE:
        size, sums.by_row, rows = PIECE // itemsize * itemsize, False, 0
    buffer = torch.empty(min(size, spec.nbytes), dtype=torch.uint8, device="cpu")
    for start in range(0, spec.nbytes, size):
        piece = buffer[: min(size, spec.nbytes - start)]
        source.read_into(network, spec.name, piece.numpy().data, start)
        values = piece.view(getattr(torch, spec.dtype.label))
        sums.add(values if values.dtype is torch.float64 else values.to(torch.float32), width)
        ticks.tick(piece.numel())
    return sums.moments(spec.numel, rows)


@dataclass(slots=True)
class _RunningSums:
    """Sums over the finite elements seen so far. Powers are taken about the mean of the first piece, so that little cancels."""

    by_row: bool
    count: int = 0
    odd: int = 0
    least: float = inf
    greatest: float = -inf
    center: float | None = None
    first: float = 0.0
    second: float = 0.0
    third: float = 0.0
    fourth: float = 0.0
    below: int = 0
    zero_rows: int = 0
    even_rows: int = 0

    def add(self, values: Tensor, width: int) -> None:
        """Count a piece: whole rows of `width` where rows are looked at."""
        table = values.reshape(-1, width) if self.by_row else values[None]
        low, high = table.aminmax(dim=1)
        if self.by_row:
            even = low == high
            self.even_rows += int(even.sum())
            self.zero_rows += int((even & (low == 0)).sum())
        least, greatest = float(low.min()), float(high.max())
        if not isfinite(least) or not isfinite(greatest):
            values = values[values.isfinite()]
            self.odd += table.numel() - values.numel()
            if not values.numel():
                return
            least, greatest = (float(v) for v in values.aminmax())
        self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)
        if least <= 0 and not self.by_row:
            self.below += int((values <= 0).sum())
        self._add_powers(values if max(-least, greatest) < POWERS_OVERFLOW else values.double())

    def _add_powers(self, values: Tensor) -> None:
        self.count += values.numel()
        if self.center is None:
            self.center = float(values.mean())
        away = values - self.center
        square = away * away
        self.first += float(away.sum())
        self.second += float(away.dot(away))
        self.third += float(square.dot(away))
        self.fourth += float(square.dot(square))

    def moments(self, numel: int, rows: int) -> Moments:
        """Return the statistics."""
        if not self.count:
            return Moments(numel=numel, odd=self.odd, rows=rows)
        d, m2, m3, m4 = (s / self.count for s in (self.first, self.second, self.third, self.fourth))
        variance = max(m2 - d * d, 0.0)
        central = m4 - 4 * d * m3 + 6 * d * d * m2 - 3 * d * d * d * d
        if not isfinite(variance) or not isfinite(central):  # values whose powers leave the range of float64
            variance, central = min(variance, MAX_VARIANCE) if variance >= 0 else MAX_VARIANCE, 0.0
        mean = (self.center or 0.0) + d
        if not isfinite(mean):
            mean = self.least / 2 + self.greatest / 2
        return Moments(
            numel=numel,
            odd=self.odd,
            least=self.least,
            greatest=self.greatest,
            mean=mean,
            std=sqrt(variance),
            kurtosis=central / (variance * variance) if variance > 0 else 0.0,
            below=self.below,
            rows=rows,
            zero_rows=self.zero_rows,
            even_rows=self.even_rows,
        )
