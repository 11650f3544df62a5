"""Which convolution is the first, whose input channels may be adapted, hangs on the model and not on a file's order."""

import random

import pytest
import torch
from torch import nn

import torchgraft as tg


def body(channels):
    return nn.ModuleDict({
        "conv": nn.Conv2d(channels, 6, 3, bias=False), "bn": nn.BatchNorm2d(6), "deep": nn.Conv2d(6, 6, 3), "last": nn.Conv2d(6, 6, 3),
    })  # fmt: skip


def shuffled(keys, seed):
    return random.Random(seed).sample(list(keys), len(keys))  # noqa: S311  # no secrets


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_every_branch_that_one_file_fills_has_a_first_layer(seed):
    state = body(3).state_dict()
    keys = sorted(state) if seed is None else shuffled(state, seed)
    model = nn.ModuleDict({"colour": body(3), "depth": body(1)})
    tg.load(model, {key: state[key] for key in keys}, fan_out={"": ["colour", "depth"]})
    assert torch.equal(model["colour"]["conv"].weight, state["conv.weight"])
    assert torch.allclose(model["depth"]["conv"].weight, state["conv.weight"].sum(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_layer_that_a_shuffled_file_has_first_is_none(seed):
    state = body(3).state_dict()
    keys = dict.fromkeys(["deep.weight", *shuffled(state, seed)])
    model = body(3)
    model["deep"] = nn.Conv2d(4, 6, 3)
    before = model["deep"].weight.clone()
    report = tg.load(model, {key: state[key] for key in keys})
    assert torch.equal(model["deep"].weight, before)
    assert "deep.weight" in {s.slot.name for s in report.plan.fresh}
