"""Bases are read off tables of rotary frequencies, and off nothing else; settings without effect are called so."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg
from torchgraft.verifying.explaining.constants import rotary_base


@given(st.floats(2, 1e7), st.integers(2, 64), st.sampled_from([torch.float32, torch.float64]))
def test_the_rotary_base_a_table(base, size, dtype):
    table = base ** (-torch.arange(size, dtype=torch.float64) / size)
    assert rotary_base(table.to(dtype)) == pytest.approx(base, rel=1e-2)


@pytest.mark.parametrize(
    "table",
    [torch.ones(8), torch.linspace(1, 0.1, 8), torch.zeros(4), torch.tensor([1.0]), -torch.ones(3), torch.rand(16) + 1],
)
def test_what_is_no_table_has_none(table):
    assert rotary_base(table) is None


def test_scaled_frequencies_have_none():
    table = 1e4 ** (-torch.arange(8, dtype=torch.float64) / 8)
    table[5:] /= 8
    assert rotary_base(table) is None


def test_sizes_that_a_plan_bridges_are_no_settings():
    class Fused(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24)

    class Split(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(8, 8) for _ in range(3))

    assert not tg.compare_hyperparameters(Fused(), Split()).differences


class Pooled(nn.Module):
    def __init__(self, *, pooled):
        super().__init__()
        self.body, self.pooled = nn.Conv2d(3, 4, 3), pooled

    def forward(self, x):
        out = self.body(x)
        return out.mean((2, 3)) if self.pooled else out


def test_outputs_of_other_shapes_say_how_far_runs_agree():
    source, target = Pooled(pooled=False), Pooled(pooled=True)
    report = tg.load(target, source)
    found = tg.verify(target, source, torch.randn(1, 3, 8, 8), plan=report)
    assert not found.passed
    assert "the last result that both runs have comes out of body" in str(found)
