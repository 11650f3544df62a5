"""Numbers that stand where a mask is, such as -1e9, don't hide that the others differ."""

import copy

import pytest
import torch
from torch import nn

import torchgraft as tg


class Scores(nn.Module):
    def __init__(self, fill):
        super().__init__()
        self.body, self.fill = nn.Linear(6, 6), fill

    def forward(self, x):
        return self.body(x).masked_fill(torch.eye(6, dtype=torch.bool)[:3], self.fill)


@pytest.mark.parametrize("fill", [-1e9, torch.finfo(torch.float32).min, -1e4, float("-inf")])
def test_a_fault_beside_a_fill_is_seen(fill):
    source = Scores(fill)
    model = copy.deepcopy(source)
    report = tg.load(model, source)
    inputs = torch.randn(3, 6)
    right = tg.verify(model, source, inputs, plan=report)
    assert right.passed
    with torch.no_grad():
        model.body.weight[2, 3] += 0.1
    wrong = tg.verify(model, source, inputs, plan=report)
    assert not wrong.passed, str(wrong)
    assert wrong.relative < 1
    assert wrong.divergence.target.module == "body"


def test_large_numbers_that_are_computed_are_no_fills():
    source = nn.Linear(6, 6)
    with torch.no_grad():
        source.weight.mul_(1e6)
    model = copy.deepcopy(source)
    with torch.no_grad():
        model.weight.mul_(1 + 1e-6)
    found = tg.verify(model, source, torch.randn(3, 6))
    assert found.passed
    assert found.relative < 1e-5
