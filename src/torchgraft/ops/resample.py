"""Ops that resize what was learned on a grid: position tables and patch kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torchgraft.core.errors import UsageError
from torchgraft.core.specs import Shape, TensorSpec
from torchgraft.core.types import Tensor
from torchgraft.ops.base import BaseOp, replaced, with_shape, working_dtype
from torchgraft.ops.exact import gather

SMOOTH = ("bicubic", "bilinear")


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
    """Resizes a table of absolute positions on a grid; the rows before the grid (class token) are never mixed in.

    `layout` "rows" is [..., prefix + height * width, channels], "channels-last" [..., height, width, channels],
    "channels-first" [..., channels, height, width]. The first `prefix_source` rows are no part of the grid;
    `prefix_rows` says which of them stay, bit for bit. With equal grids nothing is interpolated. Computes in float32.

    With the defaults this is timm's `resample_abs_pos_embed`; bicubic without antialias and with `align_corners` is
    torchvision's `interpolate_embeddings`; bicubic without either is DINO's and transformers' choice.
    """

    source_grid: tuple[int, ...]
    target_grid: tuple[int, ...]
    prefix_source: int = 0
    prefix_rows: tuple[int, ...] = ()
    mode: str = "bicubic"
    antialias: bool = True
    align_corners: bool = False
    layout: str = "rows"

    name = "resample_grid"
    rounds = True

    def __post_init__(self) -> None:
        _expect_sizes(self.name, self.source_grid, self.target_grid)
        self.expect_choice("mode", self.mode, SMOOTH)
        self.expect_choice("layout", self.layout, ("rows", "channels-last", "channels-first"))
        inside = self.prefix_source >= 0 and all(0 <= i < self.prefix_source for i in self.prefix_rows)
        if not inside or (self.prefix_source and self.layout != "rows"):
            raise UsageError(
                f"{self.name}: prefix rows {list(self.prefix_rows)} of {self.prefix_source} don't go with {self.layout}"
            )

    def _target(self, shape: Shape) -> Shape:
        """Return the shape that `shape` is resized to."""
        if self.layout == "rows":
            return (*shape[:-2], len(self.prefix_rows) + prod(self.target_grid), shape[-1])
        if self.layout == "channels-last":
            return (*shape[:-3], *self.target_grid, shape[-1])
        return (*shape[:-2], *self.target_grid)

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 1)
        shape, rank = specs[0].shape, 2 if self.layout == "rows" else 3
        self.expect(specs, f"{self.layout} needs {rank} dimensions or more", that=len(shape) >= rank)
        held = {"rows": (shape[-2],), "channels-last": shape[-3:-1], "channels-first": shape[-2:]}[self.layout]
        wanted = (self.prefix_source + prod(self.source_grid),) if self.layout == "rows" else self.source_grid
        need = f"a grid {size_words(self.source_grid)} behind {self.prefix_source} rows has sizes {list(wanted)}"
        self.expect(specs, need, that=held == wanted)
        self.expect_float(specs)
        return with_shape(specs[0], self._target(shape))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        """Return the resized table in the input's type. Needs a float32 copy of the input and of the result."""
        import torch

        value = values[0]
        target = self._target(tuple(value.shape))
        if self.layout != "rows":
            return self._resized(value).reshape(target)
        rows = value.shape[-2] - self.prefix_source
        grid = value.narrow(-2, self.prefix_source, rows)
        grid = grid.reshape(*value.shape[:-2], *self.source_grid, value.shape[-1])
        resized = self._resized(grid).flatten(-3, -2)
        return torch.cat([gather(value, -2, self.prefix_rows), resized], -2) if self.prefix_rows else resized

    def _resized(self, grid: Tensor) -> Tensor:
        """Return the grid (with its channels first or last, as the layout says) at the target size."""
        if self.source_grid == self.target_grid:
            return grid
        first = self.layout == "channels-first"
        planes = grid if first else grid.movedim(-1, -3)
        images = planes.reshape(-1, *planes.shape[-3:])
        out = interpolated(images, self.target_grid, self.mode, antialias=self.antialias, corners=self.align_corners)
        out = out.reshape(*planes.shape[:-2], *self.target_grid)
        return out if first else out.movedim(-3, -1)

    def describe(self) -> str:
        how = self.mode + (" antialiased" if self.antialias else "") + (" by corners" if self.align_corners else "")
        kept, n = len(self.prefix_rows), self.prefix_source
        prefix = f"{kept} of {n} prefix rows kept" if kept != n else f"{n} prefix row{'s' if n != 1 else ''} kept"
        grid = f"position grid {size_words(self.source_grid)}"
        same = self.source_grid == self.target_grid
        words = f"{grid} as it is" if same else f"{grid} -> {size_words(self.target_grid)} {how}"
        return f"{words}, {prefix}" if n else words


def interpolated(images: Tensor, size: tuple[int, ...], mode: str, *, antialias: bool, corners: bool) -> Tensor:
    """Return images [N, C, H, W] at another size, computed in float32 (or float64), in their own type."""
    import torch.nn.functional as F  # noqa: N812

    wide = images.to(working_dtype([images]))
    # torch 2.14 repeats the first row when an antialiased result is one column wide: lay such images on their side
    turned = antialias and size[1] == 1
    if turned:
        wide, size = wide.transpose(2, 3), size[::-1]
    out = F.interpolate(wide, size=size, mode=mode, antialias=antialias, align_corners=corners)
    return (out.transpose(2, 3) if turned else out).to(images.dtype)


@dataclass(frozen=True, slots=True)
class Resample1d(BaseOp):
    """Resizes a table of positions on a line, along `dim`; the first `prefix` rows are kept bit for bit.

    `source`, where given, is the number of positions to come in.

    "linear" is what SAM does with its decomposed relative positions, [2 * size - 1, channels]. Computes in float32.
    """

    target: int
    mode: str = "linear"
    dim: int = 0
    prefix: int = 0
    source: int | None = None

    name = "resample_1d"
    rounds = True

    def __post_init__(self) -> None:
        self.expect_choice("mode", self.mode, ("linear", "nearest"))
        if self.target < 1 or self.prefix < 0:
            raise UsageError(f"{self.name}: {self.target} positions after {self.prefix} make no sense")

    def out_spec(self, specs: Sequence[TensorSpec]) -> TensorSpec:
        self.expect_count(specs, 1)
        self.expect_dim(specs, self.dim)
        source = specs[0].shape[self.dim] - self.prefix
        need = f"dimension {self.dim} should hold {self.source or 'some'} positions after {self.prefix} prefix rows"
        self.expect(specs, need, that=source > 0 and self.source in (None, source))
        self.expect_float(specs)
        return with_shape(specs[0], replaced(specs[0].shape, self.dim, self.prefix + self.target))

    def run(self, values: Sequence[Tensor]) -> Tensor:
        import torch
        import torch.nn.functional as F  # noqa: N812

        table = values[0].movedim(self.dim, -1)
        line = table[..., self.prefix :].to(working_dtype(values))
        line = line.reshape(1, -1, line.shape[-1])
        out = F.interpolate(line, size=self.target, mode=self.mode).to(table.dtype)
        out = out.reshape(*table.shape[:-1], self.target)
        return torch.cat([table[..., : self.prefix], out], -1).movedim(-1, self.dim)

    def describe(self) -> str:
        kept = f", {self.prefix} prefix rows kept" if self.prefix else ""
        return f"positions {arrow(self.source, self.target)} {self.mode}{kept}"


@dataclass(frozen=True, slots=True)
class ResamplePatch(BaseOp):
    """Resizes a patch-embedding kernel [out, in, height, width] so that resized patches give the same embedding.

    Patch resizing is a linear map B, and the kernel that answers to the resized patch as the old one did to the patch
    is pinv(B^T) applied to it (`source`, where given, is the old size): FlexiViT, Beyer et al. 2023 (arXiv:2212.08013), section 3.4; timm's
    `resample_patch_embed`. Computes in float32.
    """

    target: tuple[int, ...]
    mode: str = "bicubic"
    antialias: bool = True
    source: tuple[int, ...] = ()

    name = "resample_patch"
    rounds = True

    def __post_init__(self) -> None:
        _expect_sizes(self.name, self.source or self.target, self.target)
        self.expect_choice("mode", self.mode, SMOOTH)

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
        resize = interpolated(unit, self.target, self.mode, antialias=self.antialias, corners=False).flatten(1)
        inverse: Tensor = torch.linalg.pinv(resize.T)
        flat = kernel.flatten(2).to(resize.dtype) @ inverse
        return flat.reshape(*kernel.shape[:2], *self.target).to(kernel.dtype)

    def describe(self) -> str:
        how = self.mode + (" antialiased" if self.antialias else "")
        return f"patch kernel {arrow(size_words(self.source), size_words(self.target))} by pseudo-inverse, {how}"
