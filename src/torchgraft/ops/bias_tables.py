"""Resizing of relative position bias tables: Swin, BEiT, MaxViT and their kin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, with_shape, working_dtype
from torchgraft.ops.resample import interpolated, size_words


@dataclass(frozen=True, slots=True)
class ResampleBiasTable(BaseOp):
    """Resizes a relative position bias table to another attention window.

    A window of height h and width w has (2h - 1)(2w - 1) offsets, stored as [offsets + extra, heads] or, without
    extra rows, as [heads, 2h - 1, 2w - 1]. The last `extra` rows (BEiT has 3, for the class token) are kept bit for
    bit. `method` "bicubic" (Swin's own fine-tuning; timm's `resize_rel_pos_bias_table_simple`), "bicubic-antialias"
    (timm's for LeViT and TinyViT), or "geometric" (BEiT's fine-tuning with linear interpolation, timm's
    `resize_rel_pos_bias_table`: known offsets are spread over the target in growing steps, so that small distances
    keep their meaning). Computes in float32.
    """

    source_window: tuple[int, ...]
    target_window: tuple[int, ...]
    extra: int = 0
    method: str = "bicubic"

    name = "resample_bias_table"
    rounds = True

    def __post_init__(self) -> None:
        self.expect_choice("method", self.method, ("bicubic", "bicubic-antialias", "geometric"))
        wrong = any(len(w) != 2 or min(w) < 1 for w in (self.source_window, self.target_window)) or self.extra < 0
        if wrong:
            raise UsageError(
                f"{self.name}: windows {list(self.source_window)}, {list(self.target_window)} with {self.extra} extra "
                "rows make no sense"
            )

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        shape = self.only(specs).shape
        source, target = _offsets(self.source_window), _offsets(self.target_window)
        flat, maps = (prod(source) + self.extra,), None if self.extra else source
        need = f"a window {size_words(self.source_window)} with {self.extra} extra rows has {flat[0]} rows"
        fits = (len(shape) == 2 and shape[:1] == flat) or (len(shape) == 3 and shape[1:] == maps)
        self.expect(specs, need, that=fits)
        self.expect_float(specs)
        return with_shape(specs[0], (prod(target) + self.extra, shape[1]) if len(shape) == 2 else (shape[0], *target))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        table = values[0]
        if self.source_window == self.target_window:
            return table
        if table.dim() == 3:
            return self._resized(table)
        rows = table.shape[0] - self.extra
        maps = table[:rows].T.reshape(-1, *_offsets(self.source_window))
        return torch.cat([self._resized(maps).flatten(1).T, table[rows:]])

    def _resized(self, maps: Tensor) -> Tensor:
        """Return maps [heads, height, width] at the target's offsets."""
        source, target = _offsets(self.source_window), _offsets(self.target_window)
        if self.method != "geometric":
            smooth = self.method == "bicubic-antialias"
            return interpolated(maps[None], target, "bicubic", antialias=smooth, corners=False)[0]
        wide = maps.to(working_dtype([maps]))
        down, across = (_linear_weights(s, t).to(wide) for s, t in zip(source, target, strict=True))
        return (down @ wide @ across.T).to(maps.dtype)

    def describe(self) -> str:
        kept = f", {self.extra} extra rows kept" if self.extra else ""
        windows = f"{size_words(self.source_window)} -> {size_words(self.target_window)}"
        return f"bias table of window {windows} {self.method}{kept}"


def _offsets(window: tuple[int, ...]) -> tuple[int, int]:
    """Return how many offsets a window has down and across."""
    return 2 * window[0] - 1, 2 * window[1] - 1


def _spread(source: int, target: int) -> list[float]:
    """Return where the known offsets lie on the target's axis: steps 1, q, q^2, ... from the centre to its edge.

    q is found by bisection in [1.01, 1.5] to 1e-6, as BEiT's fine-tuning does (Microsoft unilm, Bao et al. 2021).
    """
    half, low, high, q = source // 2, 1.01, 1.5, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        if (1 - q**half) / (1 - q) > target // 2:
            high = q
        else:
            low = q
    outward = list(accumulate(q**i for i in range(half)))
    return [*(-d for d in reversed(outward)), 0.0, *outward]


def _linear_weights(source: int, target: int) -> Tensor:
    """Return [target, source] weights of linear interpolation between the spread offsets, constant beyond them."""
    import torch

    if source == 1:
        return torch.ones(target, 1, dtype=torch.float64, device="cpu")
    known = torch.tensor(_spread(source, target), dtype=torch.float64, device="cpu")
    wanted = torch.arange(-(target // 2), target - target // 2, dtype=torch.float64, device="cpu").clamp(
        known[0], known[-1]
    )
    right = torch.searchsorted(known, wanted).clamp(1, source - 1)
    share = (wanted - known[right - 1]) / (known[right] - known[right - 1])
    weights = torch.zeros(target, source, dtype=torch.float64, device="cpu")
    weights.scatter_(1, right[:, None], share[:, None])
    return weights.scatter_(1, right[:, None] - 1, 1 - share[:, None])
