"""Where torch records what is called, tensors have no values: a load says so in its own words, or goes on beside it."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import torchgraft as tg


class Loading(nn.Module):
    """Loads its layer each time that it runs."""

    def __init__(self, checkpoint):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.checkpoint = checkpoint

    def forward(self, x):
        tg.load(self.layer, self.checkpoint)
        return self.layer(x)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(nn.Linear(4, 4).state_dict(), path)
    return path


def test_within_fake_mode(checkpoint):
    model = nn.Linear(4, 4)
    before = model.weight.clone()
    with FakeTensorMode(), pytest.raises(tg.UsageError, match="within FakeTensorMode"):
        tg.load(model, checkpoint)
    assert torch.equal(model.weight, before)


def test_a_model_of_fake_tensors(checkpoint):
    with FakeTensorMode():
        model = nn.Linear(4, 4)
    with pytest.raises(tg.UsageError, match="tensors are fake"):
        tg.load(model, checkpoint)
    assert len(tg.plan(model, checkpoint).copied) == 2


def test_while_it_is_traced_or_exported(checkpoint):
    with pytest.raises(tg.UsageError, match=r"torch\.jit\.trace"):
        torch.jit.trace(Loading(checkpoint), torch.zeros(1, 4))
    with pytest.raises(tg.UsageError, match="FakeTensorMode"):
        torch.export.export(Loading(checkpoint), (torch.zeros(1, 4),), strict=False)


def test_within_a_compiled_module(checkpoint):
    model = Loading(checkpoint)
    made = torch.compile(model, backend="eager")(torch.ones(1, 4))
    held = torch.load(checkpoint)
    assert torch.equal(model.layer.weight, held["weight"])
    assert torch.equal(made, nn.functional.linear(torch.ones(1, 4), held["weight"], held["bias"]))
