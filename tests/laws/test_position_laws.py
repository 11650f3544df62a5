"""Position tables, over random models: prefix rows exact, the grid as timm resamples it, other lengths from the start."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg


class Vision(nn.Module):
    """A patch embedding, prefix tokens, a table of one row for each, and a layer behind it."""

    def __init__(self, grid, width, prefix):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, 4, stride=4)
        for name in ("cls_token", "dist_token")[:prefix]:
            self.register_parameter(name, nn.Parameter(torch.randn(1, 1, width)))
        self.pos_embed = nn.Parameter(torch.randn(1, prefix + grid[0] * grid[1], width))
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, width)


class Text(nn.Module):
    def __init__(self, length, width):
        super().__init__()
        self.tok, self.pos = nn.Embedding(11, width), nn.Embedding(length, width)
        self.fc = nn.Linear(width, 3)


sides = st.integers(2, 7)
grids = st.tuples(sides, sides)
widths = st.sampled_from((4, 6, 8))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 7), st.integers(2, 7), widths, st.integers(0, 2))
def test_square_grids_are_resampled_and_prefix_rows_exact(old, new, width, prefix):
    check(Vision((old, old), width, prefix), Vision((new, new), width, prefix), (old, old), (new, new), prefix, {})


@settings(max_examples=30, deadline=None)
@given(grids, grids, widths, st.integers(0, 2))
def test_stated_grids_need_not_be_square(old, new, width, prefix):
    stated = {"grids": {"pos_embed": (old, new)}}
    check(Vision(old, width, prefix), Vision(new, width, prefix), old, new, prefix, stated)


def check(source, target, old, new, prefix, options):
    from timm.layers import resample_abs_pos_embed

    tg.load(target, source, **options)
    expected = source.pos_embed
    if old != new:
        expected = resample_abs_pos_embed(source.pos_embed, list(new), list(old), num_prefix_tokens=prefix)
    assert torch.equal(target.pos_embed[:, :prefix], source.pos_embed[:, :prefix])
    assert torch.allclose(target.pos_embed, expected, atol=1e-5)
    assert torch.equal(target.fc.weight, source.fc.weight)


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 40), st.integers(3, 40), widths)
def test_tables_of_text_are_filled_from_the_start(old, new, width):
    source, target = Text(old, width), Text(new, width)
    before = target.pos.weight.detach().clone()
    if abs(old - new) == 2:  # the first two rows of the longer one may be those of RoBERTa, which are no positions
        with pytest.raises(tg.PlanRefusedError, match=r"pos\.weight is in doubt"):
            tg.load(target, source)
        return
    tg.load(target, source)
    both = min(old, new)
    assert torch.equal(target.pos.weight[:both], source.pos.weight[:both])
    assert torch.equal(target.pos.weight[both:], before[both:])
