"""Ops that resize what was learned on a grid: position tables and patch kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, replaced, with_shape, working_dtype
from torchgraft.ops.exact import gather


def size_words(size: tuple[int, ...]) -> str:
    """Return a size in words: `14x14`."""
    return "x".join(map(str, size))


def arrow(source: object, target: object) -> str:
    """Return a change of size in words, `16 -> 32`; only where it leads when the source is not known."""
    return f"{source} -> {target}" if source else f"-> {target}"


def _expect_sizes(op: str, *sizes: tuple[int, ...]) -> None:
    """Raise UsageError unless every size is a height and a width of at least 1."""
    wrong = next((s for s in sizes if len(s) != 2 or min(s) < 1), None)
    if wrong is not None:
        raise UsageError(f"{op}: {list(wrong)} is no height and width")


@dataclass(frozen=True, slots=True)
class ResampleGrid(BaseOp):
    """Resizes a table of absolute positions on a grid, bicubic: [..., prefix + height * width, channels].

    The first `prefix_source` rows (class token) are no part of the grid and never mixed in; `prefix_rows` says which of them
    stay, bit for bit. With equal grids nothing is interpolated. Computes in float32.

    With the defaults this is timm's `resample_abs_pos_embed`; without antialias and with `align_corners` it is torchvision's
    `interpolate_embeddings`; without either it is DINO's and transformers' choice.
    """

    source_grid: tuple[int, ...]
    target_grid: tuple[int, ...]
    prefix_source: int = 0
    prefix_rows: tuple[int, ...] = ()
    antialias: bool = True
    align_corners: bool = False

    name = "resample_grid"
    rounds = True

    def __post_init__(self) -> None:
        _expect_sizes(self.name, self.source_grid, self.target_grid)
        if self.prefix_source < 0 or not all(0 <= i < self.prefix_source for i in self.prefix_rows):
            raise UsageError(f"{self.name}: there are no prefix rows {list(self.prefix_rows)} of {self.prefix_source}")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        shape = self.only(specs).shape
        rows = self.prefix_source + prod(self.source_grid)
        need = f"a grid {size_words(self.source_grid)} behind {self.prefix_source} rows has {rows} rows"
        self.expect(specs, need, that=len(shape) >= 2 and shape[-2] == rows)
        self.expect_float(specs)
        return with_shape(specs[0], replaced(shape, len(shape) - 2, len(self.prefix_rows) + prod(self.target_grid)))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the resized table in the input's type. Needs a float32 copy of the input and of the result."""
        import torch

        value = values[0]
        cells = value.narrow(-2, self.prefix_source, prod(self.source_grid))
        if self.source_grid != self.target_grid:
            images = cells.movedim(-1, -2).reshape(-1, value.shape[-1], *self.source_grid)
            options = {"antialias": self.antialias, "corners": self.align_corners}
            resized = interpolated(images, self.target_grid, **options).flatten(2)
            cells = resized.reshape(*value.shape[:-2], value.shape[-1], -1).movedim(-2, -1)
        return torch.cat([gather(value, -2, self.prefix_rows), cells], -2) if self.prefix_rows else cells

    def describe(self) -> str:
        how = "bicubic" + (" antialiased" if self.antialias else "") + (" by corners" if self.align_corners else "")
        kept, n = len(self.prefix_rows), self.prefix_source
        prefix = f"{kept} of {n} prefix rows kept" if kept != n else f"{n} prefix row{'s' if n != 1 else ''} kept"
        grid = f"position grid {size_words(self.source_grid)}"
        same = self.source_grid == self.target_grid
        words = f"{grid} as it is" if same else f"{grid} -> {size_words(self.target_grid)} {how}"
        return f"{words}, {prefix}" if n else words


def interpolated(images: Tensor, size: tuple[int, ...], *, antialias: bool, corners: bool) -> Tensor:
    """Return images [N, C, H, W] at another size, bicubic, computed in float32 (or float64), in their own type."""
    import torch.nn.functional as F  # noqa: N812

    wide = images.to(working_dtype([images]))
    # torch 2.14 repeats the first row when an antialiased result is one column wide: lay such images on their side
    turned = antialias and size[1] == 1
    if turned:
        wide, size = wide.transpose(2, 3), size[::-1]
    out = F.interpolate(wide, size=size, mode="bicubic", antialias=antialias, align_corners=corners)
    return (out.transpose(2, 3) if turned else out).to(images.dtype)


@dataclass(frozen=True, slots=True)
class Resample1d(BaseOp):
    """Resizes a table of positions on a line, [positions, channels], by linear interpolation.

    This is what SAM does with its decomposed relative positions, [2 * size - 1, channels]. Computes in float32.
    """

    target: int

    name = "resample_1d"
    rounds = True

    def __post_init__(self) -> None:
        self.expect_sizes("target", (self.target,))

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        shape = self.only(specs).shape
        self.expect(specs, "it takes a table [positions, channels]", that=len(shape) == 2 and shape[0] > 0)
        self.expect_float(specs)
        return with_shape(specs[0], (self.target, shape[1]))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch.nn.functional as F  # noqa: N812

        line = values[0].T[None].to(working_dtype(values))
        return F.interpolate(line, size=self.target, mode="linear")[0].T.to(values[0].dtype)

    def describe(self) -> str:
        return f"positions -> {self.target} linear"


@dataclass(frozen=True, slots=True)
class ResamplePatch(BaseOp):
    """Resizes a patch-embedding kernel [out, in, height, width] so that resized patches give the same embedding.

    Patch resizing is a linear map B, and the kernel that answers to the resized patch as the old one did to the patch
    is pinv(B^T) applied to it (`source`, where given, is the old size): FlexiViT, Beyer et al. 2023 (arXiv:2212.08013), section
    3.4; timm's `resample_patch_embed`. Computes in float32.
    """

    target: tuple[int, ...]
    source: tuple[int, ...] = ()

    name = "resample_patch"
    rounds = True

    def __post_init__(self) -> None:
        _expect_sizes(self.name, self.source or self.target, self.target)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        shape = self.only(specs).shape
        fits = len(shape) == 4 and min(shape) > 0 and self.source in ((), shape[2:])
        need = f"it takes a kernel [out, in, {', '.join(map(str, self.source or ('height', 'width')))}]"
        self.expect(specs, need, that=fits)
        self.expect_float(specs)
        return with_shape(specs[0], (*shape[:2], *self.target))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        kernel = values[0]
        source = tuple(kernel.shape[2:])
        if source == self.target:
            return kernel
        cells = prod(source)
        unit = torch.eye(cells, dtype=working_dtype(values), device=kernel.device).reshape(cells, 1, *source)
        # row i: what the resize makes of the patch that is 1 at cell i; B transposed
        resize = interpolated(unit, self.target, antialias=True, corners=False).flatten(1)
        inverse: Tensor = torch.linalg.pinv(resize.T)
        flat = kernel.flatten(2).to(resize.dtype) @ inverse
        return flat.reshape(*kernel.shape[:2], *self.target).to(kernel.dtype)

    def describe(self) -> str:
        return f"patch kernel {arrow(size_words(self.source), size_words(self.target))} by pseudo-inverse, bicubic antialiased"


@dataclass(frozen=True, slots=True)
class ResampleBiasTable(BaseOp):
    """Resizes a relative position bias table to another attention window, bicubic.

    A window of height h and width w has (2h - 1)(2w - 1) offsets, stored as [offsets + extra, heads]. The last `extra` rows
    (BEiT has 3, for the class token) are kept bit for bit. As Swin's own fine-tuning and timm's
    `resize_rel_pos_bias_table_simple` do it. Computes in float32.
    """

    source_window: tuple[int, ...]
    target_window: tuple[int, ...]
    extra: int = 0

    name = "resample_bias_table"
    rounds = True

    def __post_init__(self) -> None:
        _expect_sizes(self.name, self.source_window, self.target_window)
        if self.extra < 0:
            raise UsageError(f"{self.name}: {self.extra} extra rows make no sense")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        shape = self.only(specs).shape
        rows = prod(_offsets(self.source_window)) + self.extra
        need = f"a window {size_words(self.source_window)} with {self.extra} extra rows has {rows} rows"
        self.expect(specs, need, that=len(shape) == 2 and shape[0] == rows)
        self.expect_float(specs)
        return with_shape(specs[0], (prod(_offsets(self.target_window)) + self.extra, shape[1]))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch

        table = values[0]
        if self.source_window == self.target_window:
            return table
        rows = table.shape[0] - self.extra
        maps = table[:rows].T.reshape(1, -1, *_offsets(self.source_window))
        resized = interpolated(maps, _offsets(self.target_window), antialias=False, corners=False)[0]
        return torch.cat([resized.flatten(1).T, table[rows:]])

    def describe(self) -> str:
        kept = f", {self.extra} extra rows kept" if self.extra else ""
        return (
            f"bias table of window {size_words(self.source_window)} -> {size_words(self.target_window)} bicubic{kept}"
        )


def _offsets(window: tuple[int, ...]) -> tuple[int, int]:
    """Return how many offsets a window has down and across."""
    return 2 * window[0] - 1, 2 * window[1] - 1
