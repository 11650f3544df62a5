"""Position tables of another size: prefix tokens by name, grids by their squares, text positions from the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isqrt
from typing import Any

from torchgraft.adapting.fit import Fit, mismatch
from torchgraft.adapting.relative import Grid, axis_table, times, window_table
from torchgraft.adapting.tables import (
    AXIS_WORDS,
    FRAME_WORDS,
    NO_VOCABULARY_WORDS,
    OFFSET_WORDS,
    PLANE_WORDS,
    POSITION_WORDS,
    PREFIX_TOKENS,
    VOCABULARY_WORDS,
)
from torchgraft.core.errors import UsageError
from torchgraft.core.grounds import Ground
from torchgraft.core.match import Leaf
from torchgraft.core.names import shared_start, words
from torchgraft.core.plan import Certainty, Op, Rows
from torchgraft.core.specs import Shape
from torchgraft.ops import InsertZeros, ResampleGrid, Reshape, SelectRows, SliceDim

Layout = tuple[int, Grid]  # how many rows stand before those of the grid, and the grid

# How libraries resample their own tables: torchvision's interpolate_embeddings (bicubic, corners aligned), transformers'
# interpolate_pos_encoding (bicubic). Others as timm's resample_abs_pos_embed: bicubic with antialiasing.
RESAMPLING: dict[str, dict[str, Any]] = {
    "torchvision": {"antialias": False, "align_corners": True},
    "transformers": {"antialias": False},
}

# RoBERTa, BART and OPT count positions from the row behind their padding's, so that their tables have two rows more.
OFFSET = 2
OFFSET_TABLES = (
    "the first two rows of the longer one may be no positions, as in RoBERTa, BART and OPT; axis_names= says which "
    "rows go where"
)


@dataclass(frozen=True, slots=True)
class Side:
    """What one side says about its tokens: the number of each kind of prefix token, and where patches are cut.

    `patches` are the modules with square kernels or cubes, `texts` those that are tables of words with the width of their rows;
    `cuts` says whether one of them is called or sized like what cuts patches: kernels of 3x3 or 7x7 rather slide.
    `volumes` says whether kernels go over frames or slices as well; `grids` are those that modules of the model, or of the
    source's, say they cut.
    """

    tokens: tuple[int, ...]
    patches: tuple[str, ...] = ()
    cuts: bool = False
    volumes: bool = False
    texts: tuple[tuple[str, int], ...] = ()
    grids: frozenset[Grid] = frozenset()

    def of(self, table: Leaf) -> Side:
        """Return the side as a position table sees it: without patches and their tokens where words stand nearer to it.

        Models of images and text have both kinds of tables. Of tables of words those count that are beside it, or below that.
        """
        place = table.owner.rpartition(".")[0] if table.role == "weight" else table.owner
        texts = {owner: _way(place, owner) for owner, width in self.texts if width == table.shape[-1]}
        patches = [_way(place, owner) for owner in self.patches]
        if texts and patches and min(texts.values()) < min(patches):
            return Side((0,) * len(PREFIX_TOKENS), texts=self.texts)
        return replace(self, texts=tuple([one for one in self.texts if texts.get(one[0], (1,))[0] == 0]))

    @property
    def prefix(self) -> int:
        """Number of prefix tokens."""
        return sum(self.tokens)

    @property
    def rows_before(self) -> tuple[int, ...]:
        """How many rows may stand before the patches' own, likeliest first.

        Registers are put behind the positions (Darcet et al., "Vision Transformers Need Registers"), or have rows as well.
        Where no name speaks of tokens, there may be one or two.
        """
        return (self.prefix, sum(self.tokens[:-1]), 0) if self.prefix else (0, 1, 2)


def read_side(leaves: Sequence[Leaf]) -> Side:
    """Return the prefix tokens, patches and tables of words that the names and shapes of one side show."""
    counts = [0] * len(PREFIX_TOKENS)
    patches, texts = [], []
    cuts = volumes = False
    for leaf in leaves:
        role = leaf.role
        if len(leaf.shape) in (4, 5) and leaf.shape[-2] == leaf.shape[-1] > 1:
            patches.append(leaf.owner)
            cuts |= leaf.shape[-1] % 2 == 0 or "patch" in leaf.owner
            volumes |= len(leaf.shape) == 5 and leaf.shape[2] > 1
        said = words(role if role != "weight" else leaf.owner.rpartition(".")[2])
        if role == "weight" and len(leaf.shape) == 2 and _mean_words(said):
            texts.append((leaf.owner, leaf.shape[1]))
        if not said or said[-1] not in ("token", "tokens", "embedding") or "mask" in said:
            continue
        for kind, names in enumerate(PREFIX_TOKENS):
            if said[0] in names and len(leaf.shape) <= 3:
                counts[kind] = leaf.shape[-2] if len(leaf.shape) > 1 else 1
    return Side(tuple(counts), tuple(patches), cuts, volumes, tuple(texts))


@lru_cache
def _mean_words(said: tuple[str, ...]) -> bool:
    """Return whether a module that is called so is a table of words."""
    return not VOCABULARY_WORDS.isdisjoint(said) and NO_VOCABULARY_WORDS.isdisjoint(said)


def _way(place: str, owner: str) -> tuple[int, int]:
    """Return how far a module is from a place: levels up to what holds both, then levels down."""
    here, there = place.split(".") if place else [], owner.split(".") if owner else []
    shared = shared_start(here, there)
    return len(here) - shared, len(there) - shared


def is_position_table(leaf: Leaf) -> bool:
    """Whether the name says that rows are positions."""
    return bool(POSITION_WORDS & set(words(leaf.role))) or bool(
        POSITION_WORDS & set(words(leaf.owner.rpartition(".")[2]))
    )


def position_fit(
    source: Leaf, target: Leaf, sides: tuple[Side, Side], library: str, stated: tuple[Grid, Grid] | None
) -> Fit | None:
    """Return how a position table changes its size; None when the pair is none, or only other axes differ.

    `stated` are the grids that the caller gave.
    """
    if OFFSET_WORDS & set(words(source.role)) and len(source.shape) == len(target.shape) == 2:
        axis = bool(AXIS_WORDS & set(words(source.role)))
        return axis_table(source.shape, target.shape) if axis else window_table(source, target, stated)
    if not is_position_table(target) or source.shape[-1:] != target.shape[-1:]:
        return None
    if len(source.shape) == len(target.shape) == 4:
        return _open_grid(source.shape, target.shape)
    dim = len(target.shape) - 2
    if len(source.shape) < 2 or dim < 0 or any(d != 1 for d in (*source.shape[:-2], *target.shape[:-2])):
        return None
    squeeze = () if len(source.shape) == len(target.shape) else (Reshape((*target.shape[:-2], *source.shape[-2:])),)
    rows = source.shape[-2], target.shape[-2]
    said = {*words(target.role), *words(target.owner.rpartition(".")[2])}
    if stated is None and FRAME_WORDS & said:
        remedy = f"grids={{{target.keys[0]!r}: ((1, {rows[0]}), (1, {rows[1]}))}} resamples them"
        return Fit(None, f"{rows[0]} frames in the file, {rows[1]} in the model: {remedy}")
    seen = sides[0].of(source), sides[1].of(target)
    if stated is None and all(side.volumes for side in seen) and not PLANE_WORDS & said and not _one_grid(rows, seen):
        text = f"{rows[0]} positions in the file and {rows[1]} in the model are of volumes, whose sides no name tells"
        return Fit(None, text, certainty=Certainty.DOUBT)
    fit = _absolute(target.keys[0], rows, dim, seen, library, stated)
    return Fit((*squeeze, *fit.ops), fit.text, fit.rows, fit.certainty, fit.rule) if fit.ops is not None else fit


def _one_grid(rows: tuple[int, int], sides: tuple[Side, Side]) -> bool:
    """Whether tables differ by prefix tokens alone."""
    return rows[0] - rows[1] == sides[0].prefix - sides[1].prefix


def _absolute(
    name: str, rows: tuple[int, int], dim: int, sides: tuple[Side, Side], library: str, stated: tuple[Grid, Grid] | None
) -> Fit:
    """Return how a table of `rows` in the file and in the model, along axis `dim`, changes its size.

    Raises:
        UsageError: the stated grids have more positions than the tables.
    """
    if stated is not None:
        return _regrid(stated, _rows_beside(name, rows, stated), dim, sides, library, rows[1])
    file, model = (_layout(n, side) for n, side in zip(rows, sides, strict=True))
    patched = bool(sides[0].patches and sides[1].patches)
    if patched and file and model and not _rows_for_other_tokens(file, model, sides):
        if _may_be_lines(rows, file, model, sides):
            text = (
                f"the file has {rows[0]} positions and the model {rows[1]}, which no layer that cuts patches shows to be "
                f"grids: grids={{{name!r}: ({file[1]}, {model[1]})}} says that they are, axis_names= which rows go where"
            )
            return Fit(None, text, certainty=Certainty.DOUBT)
        fit = _regrid((file[1], model[1]), (file[0], model[0]), dim, sides, library, rows[1])
        # Rows of a class token and of a grid that isn't square may be as many as a square: 1 + 6x20 = 11x11.
        return replace(fit, certainty=Certainty.LIKELY) if fit.ops and file[0] == 0 < sides[0].prefix else fit
    gone = rows[0] - rows[1]
    if 0 < gone == sides[0].prefix - sides[1].prefix:
        return _regrid(None, (sides[0].prefix, sides[1].prefix), dim, sides, library, rows[1])
    if patched:
        return Fit(None, _grids_wanted(name, rows, (file, model), sides), certainty=Certainty.DOUBT)
    fit = _from_the_start(rows, dim)
    if not (file and model and file[0] == model[0]) or any(side.texts for side in sides):
        return fit
    seen = [_shown(*one) for one in zip(rows, (file, model), sides, strict=True)]
    text = (
        f"{fit.text}, as of a text; they may be grids, {seen[0]} and {seen[1]}: grids={{{name!r}: ({file[1]}, {model[1]})}} "
        "resamples"
    )
    return replace(fit, text=text, certainty=Certainty.DOUBT)


def _rows_beside(name: str, rows: tuple[int, int], grids: tuple[Grid, Grid]) -> tuple[int, int]:
    """Return how many rows of both tables stand before the stated grids.

    Raises:
        UsageError: the grids have more positions than the tables.
    """
    file, model = (count - height * width for count, (height, width) in zip(rows, grids, strict=True))
    if min(file, model) < 0:
        raise UsageError(
            f"grids={{{name!r}: {grids}}}: {times(grids[0])} and {times(grids[1])} positions are more than the table "
            f"has: {rows[0]} rows in the file, {rows[1]} in the model"
        )
    return file, model


def _from_the_start(rows: tuple[int, int], dim: int) -> Fit:
    """Return how a table of positions in a text gets shorter or longer: each of them means the same on both sides."""
    if abs(rows[0] - rows[1]) == OFFSET:
        return Fit(
            None, f"{rows[0]} positions in the file, {rows[1]} in the model: {OFFSET_TABLES}", certainty=Certainty.DOUBT
        )
    if rows[0] > rows[1]:
        return Fit((SliceDim(dim, 0, rows[1]),), f"the first {rows[1]} of {rows[0]} positions", rule=Ground.POSITIONS)
    kept = Rows(dim, tuple(range(rows[0])))
    return Fit(
        (), f"{rows[0]} positions copied, {rows[1] - rows[0]} further ones stay fresh", rows=kept, rule=Ground.POSITIONS
    )


def _rows_for_other_tokens(file: Layout, model: Layout, sides: tuple[Side, Side]) -> bool:
    """Whether both sides have as many tokens, and their squares leave rows for those of one alone.

    One of them may be no square: 25 rows are a grid of 5x5, or of 4x6 behind a class token. Rows that are left over where the
    grid is the same are explained by it.
    """
    return sides[0].prefix == sides[1].prefix and file[0] != model[0] and file[1] != model[1]


def _may_be_lines(rows: tuple[int, int], file: Layout, model: Layout, sides: tuple[Side, Side]) -> bool:
    """Whether squares may as well be positions in time behind convolutions that slide: 256 and 1024 frames of speech."""
    told = any(side.cuts or _told(count, side) for count, side in zip(rows, sides, strict=True))
    return not (told or file[0] or model[0] or file[1] == model[1])


def stated_grids(source: Leaf, target: Leaf, sides: tuple[Side, Side]) -> tuple[Grid, Grid] | None:
    """Return the grids of two tables of as many positions where modules of both sides tell one each, else None: 4x6 and 6x4."""
    if not (sides[0].grids and sides[1].grids and is_position_table(target)) or len(target.shape) < 2:
        return None
    seen = zip((source, target), (sides[0].of(source), sides[1].of(target)), strict=True)
    told = [_told(leaf.shape[-2], side) for leaf, side in seen]
    return (told[0][1], told[1][1]) if source.shape == target.shape and told[0] and told[1] else None


def _told(rows: int, side: Side) -> Layout | None:
    """Return the rows before the patches and the grid that a module says, None where none or several fit."""
    said = {(rows - h * w, (h, w)) for h, w in side.grids if rows - h * w in side.rows_before}
    return said.pop() if len(said) == 1 else None


def _layout(rows: int, side: Side) -> Layout | None:
    """Return how many of the rows stand before the patches, and the grid: one that a module says, or else a square."""
    told = _told(rows, side)
    if told:
        return told
    before = _square(rows, side.rows_before)
    return None if before is None else (before, (isqrt(rows - before), isqrt(rows - before)))


def _grids_wanted(
    name: str, rows: tuple[int, int], layouts: tuple[Layout | None, Layout | None], sides: tuple[Side, Side]
) -> str:
    """Return in words what is seen of both grids, and which argument states them."""
    seen = [_shown(*one) for one in zip(rows, layouts, sides, strict=True)]
    fewest = min((one[0] for one in layouts if one), default=0)
    known = [one[1] if one and (None in layouts or one[0] > fewest) else ("height", "width") for one in layouts]
    grids = ", ".join(f"({', '.join(map(str, grid))})" for grid in known)
    unless = "" if None in layouts else " unless the grid of one is no square"
    return f"the file has {seen[0]} and the model {seen[1]}{unless}: grids={{{name!r}: ({grids})}} states both"


def _shown(rows: int, layout: Layout | None, side: Side) -> str:
    """Return how the rows of a position table are read."""
    before = layout[0] if layout else side.prefix
    grid = times(layout[1]) if layout else f"{rows - before} positions in no square"
    return f"{grid} behind {before} row{'s' * (before > 1)}" if before else grid


def _square(rows: int, before: Sequence[int]) -> int | None:
    """Return the number of prefix rows: the first of `before` that leaves a square."""
    for count in before:
        if rows > count and isqrt(rows - count) ** 2 == rows - count:
            return count
    return None


def _regrid(
    grids: tuple[Grid, Grid] | None,
    prefixes: tuple[int, int],
    dim: int,
    sides: tuple[Side, Side],
    library: str,
    rows: int,
) -> Fit:
    """Return how a table gets `rows` rows along `dim`: tokens by kind, the grid resampled; without grids it is the same one."""
    kept = _kept_tokens(prefixes, sides)
    if kept is None:
        text = f"{prefixes[0]} prefix rows in the file, {prefixes[1]} in the model, and no names that tell which"
        return Fit(None, text, certainty=Certainty.DOUBT)
    dropped = prefixes[0] - len(kept)
    said = f", {_counted(len(kept), 'prefix row')} exact" if kept else ""
    said += f", {_counted(dropped, 'prefix row')} dropped" if dropped else ""
    count = rows - prefixes[1]
    if grids is None or grids[0] == grids[1]:
        op: Op = SelectRows(dim, (*kept, *range(prefixes[0], prefixes[0] + count)))
        text = f"the same grid{said}"
    else:
        op = ResampleGrid(grids[0], grids[1], prefixes[0], kept, **RESAMPLING.get(library, {}))
        known = library if library in RESAMPLING else "timm"
        text = f"position grid {times(grids[0])} -> {times(grids[1])}{said}, as {known} does it"
    if len(kept) == prefixes[1]:
        return Fit((op,), text, rule=Ground.POSITIONS)
    if prefixes[0] == 0 < sides[0].prefix:
        # The source adds no position to its prefix tokens, which zeros repeat.
        return Fit(
            (op, InsertZeros(dim, 0, prefixes[1])),
            f"{text}, zeros for {_counted(prefixes[1], 'prefix row')}",
            rule=Ground.POSITIONS,
        )
    fill = Rows(dim, (*range(len(kept)), *range(prefixes[1], prefixes[1] + count)))
    new = prefixes[1] - len(kept)
    return Fit((op,), f"{text}, {_counted(new, 'new one')} fresh", rows=fill, rule=Ground.POSITIONS)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _kept_tokens(prefixes: tuple[int, int], sides: tuple[Side, Side]) -> tuple[int, ...] | None:
    """Return which prefix rows of the file go on, or None when it can't be known."""
    if prefixes[0] == prefixes[1]:
        return tuple(range(prefixes[0]))
    if 0 in prefixes:
        return ()
    if prefixes != (sides[0].prefix, sides[1].prefix):
        return None
    kept: list[int] = []
    at = 0
    for have, want in zip(sides[0].tokens, sides[1].tokens, strict=True):
        kept += range(at, at + min(have, want))
        at += have
    return tuple(kept)


def _open_grid(a: Shape, b: Shape) -> Fit | None:
    if a[0] != b[0]:
        return None
    if a[2] == a[3] and a[2:] == b[2:]:
        text = f"{mismatch(a, b)}: a grid of other height, or maps of another width with the channels first"
        return Fit(None, text, certainty=Certainty.DOUBT)
    flat, back = Reshape((a[0], a[1] * a[2], a[3])), Reshape(b)
    op = ResampleGrid((a[1], a[2]), (b[1], b[2]))
    return Fit((flat, op, back), f"position grid {a[1]}x{a[2]} -> {b[1]}x{b[2]}", rule=Ground.POSITIONS)
