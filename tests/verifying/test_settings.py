"""Settings of training alone are told of as such; what merely has the name of one is not."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Pooling(nn.Module):
    """A generalised mean, and a memory that the forward pass writes: `p` and `momentum` have other meanings here."""

    def __init__(self, p=3.0, momentum=0.9, padding_idx=1):
        super().__init__()
        self.p, self.momentum, self.padding_idx = p, momentum, padding_idx
        self.table = nn.Embedding(9, 4)

    def forward(self, tokens):
        positions = (tokens != self.padding_idx).cumsum(1) + self.padding_idx
        x = self.table(positions).abs().pow(self.p).mean(1).pow(1 / self.p)
        return x * self.momentum


@pytest.mark.parametrize(
    ("model", "source", "name"),
    [
        (nn.BatchNorm1d(4, momentum=0.3), nn.BatchNorm1d(4), "momentum"),
        (nn.Embedding(5, 4, padding_idx=1), nn.Embedding(5, 4, padding_idx=2), "padding_idx"),
        (nn.Dropout(0.3), nn.Dropout(0.1), "p"),
        (nn.MultiheadAttention(4, 2, dropout=0.1), nn.MultiheadAttention(4, 2), "dropout"),
        (nn.GRU(4, 4, 2, dropout=0.1), nn.GRU(4, 4, 2), "dropout"),
    ],
)
def test_what_only_training_makes_use_of_does_not_matter(model, source, name):
    found = tg.compare_hyperparameters(nn.Sequential(model, nn.Linear(4, 4)), nn.Sequential(source, nn.Linear(4, 4)))
    assert [(one.name, one.matters) for one in found.differences] == [(name, False)]
    assert found.equal


@pytest.mark.parametrize(("name", "value"), [("p", 2.0), ("momentum", 0.5), ("padding_idx", 0)])
def test_the_same_name_of_something_else_matters_and_is_the_cause(name, value):
    source, model = Pooling(), Pooling(**{name: value})
    report = tg.load(model, source)
    found = tg.compare_hyperparameters(model, source)
    assert [(one.name, one.matters) for one in found.differences] == [(name, True)]
    said = tg.verify(model, source, torch.tensor([[3, 4, 1, 1], [5, 6, 7, 1]]), plan=report)
    assert not said.passed
    assert any(f"{name} is {value}" in cause.text for cause in said.causes), str(said)
