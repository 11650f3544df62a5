"""A projection kept as a bare parameter is multiplied from the other side than a layer's weight."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


class Raw(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.stem = nn.Linear(3, width)
        self.norm = nn.LayerNorm(width)
        self.visual_projection = nn.Parameter(torch.randn(width, out))
        self.positions = nn.Parameter(torch.randn(width, width))

    def forward(self, x):
        return (self.norm(self.stem(x)) + self.positions) @ self.visual_projection


class Layers(nn.Module):
    def __init__(self, width, out):
        super().__init__()
        self.stem = nn.Linear(3, width)
        self.norm = nn.LayerNorm(width)
        self.visual_projection = nn.Linear(width, out, bias=False)
        self.positions = nn.Embedding(width, width)

    def forward(self, x):
        return self.visual_projection(self.norm(self.stem(x)) + self.positions.weight)


@pytest.mark.parametrize("out", [8, 5])
@pytest.mark.parametrize("turned", [False, True])
def test_both_give_the_same_output(out, turned):
    raw, layers = Raw(8, out), Layers(8, out)
    source, target = (layers, raw) if turned else (raw, layers)
    report = tg.load(target, source.state_dict(), on_doubt="take")
    x = torch.randn(2, 8, 3)
    assert torch.allclose(source(x), target(x), atol=1e-5)
    step = next(s for s in report.plan.steps if s.slot.name.startswith("visual_projection"))
    assert "x @ W" in step.why.text
    if out == 8:  # the shape doesn't show it
        assert step.certainty is not Certainty.CERTAIN
