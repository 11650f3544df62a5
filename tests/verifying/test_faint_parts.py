"""One tolerance for an output is that of its largest entries; what differs in much smaller ones is told all the same."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Detector(nn.Module):
    """Boxes in pixels and scores in one tensor."""

    def __init__(self, activation):
        super().__init__()
        self.body, self.box, self.score = nn.Linear(6, 6), nn.Linear(6, 4), nn.Linear(6, 2)
        self.activation = activation

    def forward(self, x):
        x = self.body(x).tanh()
        return torch.cat([300 * self.box(x) + 300, 0.01 * self.activation(self.score(x))], -1)


@pytest.fixture
def source():
    torch.manual_seed(0)
    return Detector(nn.Softmax(-1))


def said_of_parts(found):
    assert found.passed
    return [note for note in found.notes if "along axis" in note]


def test_scores_beside_boxes_are_told(source):
    model = Detector(nn.Sigmoid())
    report = tg.load(model, source)
    (said,) = said_of_parts(tg.verify(model, source, torch.randn(5, 6), plan=report))
    assert "output: what has number 4-5 along axis 1 differs by 0." in said


def test_what_is_the_same_is_not(source):
    model = Detector(nn.Softmax(-1))
    report = tg.load(model, source)
    assert not said_of_parts(tg.verify(model, source, torch.randn(5, 6), plan=report))
    with torch.no_grad():
        model.score.weight *= 1 + 1e-6
    assert not said_of_parts(tg.verify(model, source, torch.randn(5, 6), plan=report))


def test_few_entries_are_not_judged_by_themselves(source):
    model = Detector(nn.Sigmoid())
    report = tg.load(model, source)
    assert not said_of_parts(tg.verify(model, source, torch.randn(3, 6), plan=report))
