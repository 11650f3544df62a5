"""The second opinion on ops gives what the ops give, by another way."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchgraft.core.dtypes import DType
from torchgraft.core.plan import Feed, Step, Why
from torchgraft.core.specs import Slot, TensorSpec
from torchgraft.ops import (
    Concat,
    Index,
    LoraMerge,
    Permute,
    ResampleGrid,
    Reshape,
    SelectRows,
    SliceDim,
    Stack,
    Transpose,
    run_step,
)
from torchgraft.verifying.proving.by_value import recompute

sides = st.integers(1, 9)


def step(feeds, ops=()):
    spec = TensorSpec("x", (1,), DType.F32)
    return Step(slot=Slot(spec=spec), feeds=tuple(feeds), ops=tuple(ops), why=Why("exact", "x"))


def both(made, tensors):
    ours = recompute(made, lambda feed: tensors[feed.key].double().numpy())
    return run_step(made, lambda feed: tensors[feed.key])[0], ours


@given(grid=st.tuples(sides, sides), to=st.tuples(sides, sides), data=st.data())
@settings(max_examples=60, deadline=None)
def test_grids_are_resampled_alike(grid, to, data):
    antialias = data.draw(st.booleans())
    corners = not antialias and data.draw(st.booleans())
    op = ResampleGrid(grid, to, 1, (0,), antialias, corners)
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    theirs, ours = both(step([Feed("a")], [op]), {"a": torch.randn(2, 1 + grid[0] * grid[1], 3, generator=draw)})
    np.testing.assert_allclose(theirs.numpy(), ours, atol=2e-5)


@pytest.mark.parametrize(
    ("feeds", "ops"),
    [
        ([Feed("a", (Transpose(),))], []),
        ([Feed("a", (Reshape((2, 6, 2)), Permute((2, 0, 1))))], []),
        ([Feed("a", (SliceDim(0, 1, 3),)), Feed("b")], [Concat(0)]),
        ([Feed("a"), Feed("b")], [Stack(1), Index(1, 1)]),
        ([Feed("b", (SelectRows(1, (3, 0, 0)),))], []),
    ],
)
def test_moves_are_made_alike(feeds, ops):
    tensors = {"a": torch.randn(4, 6), "b": torch.randn(4, 6)}
    theirs, ours = both(step(feeds, ops), tensors)
    np.testing.assert_allclose(theirs.double().numpy(), ours, rtol=1e-6)


def test_what_is_not_known_is_not_claimed():
    tensors = {name: torch.randn(4, 4) for name in "ab"}
    merged = step([Feed("a"), Feed("b")], [LoraMerge(1.0)])
    assert recompute(merged, lambda feed: tensors[feed.key].double().numpy()) is None
