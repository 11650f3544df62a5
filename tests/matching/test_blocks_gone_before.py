"""Blocks that went from the front of a list, or came there, where what only some of them have shows it."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg


def block(kind):
    layers = {"norm": nn.LayerNorm(8), "fc1": nn.Linear(8, 8, bias=kind != "plain"), "fc2": nn.Linear(8, 8)}
    return nn.ModuleDict(layers | ({"down": nn.Linear(8, 8)} if kind == "down" else {}))


def net(*kinds, name="blocks"):
    parts = {"stem": nn.Linear(5, 8), name: nn.ModuleList(map(block, kinds)), "out": nn.Linear(8, 3)}
    return filled(nn.ModuleDict(parts))


@pytest.mark.parametrize("name", ["blocks", "layers"])
@pytest.mark.parametrize(
    ("file", "model"),
    [
        (("", "", "down", ""), ("", "down", "")),
        (("", "plain", "", ""), ("plain", "", "")),
        (("", "down", ""), ("", "", "down", "")),
        (("down", "", "", ""), ("", "", "")),
        (("", "", ""), ("down", "", "", "")),
        (("down", "", ""), ("", "down", "")),
    ],
)
def test_numbers_are_no_evidence_where_others_fit_all_blocks(file, model, name):
    source, target = net(*file), net(*model, name=name)
    with pytest.raises(tg.PlanRefusedError, match="built like those of other numbers"):
        tg.load(target, source.state_dict())
    likes = tg.plan(target, source.state_dict()).steps
    inside = [step for step in likes if step.slot.name.startswith(name) and step.feeds]
    assert all(step.certainty is tg.Certainty.DOUBT for step in inside)


@pytest.mark.parametrize(
    ("file", "model"),
    [
        (("", "down", "", ""), ("", "down", "")),
        (("", "", ""), ("", "")),
        (("down", "", "down", "", ""), ("down", "", "down")),
        (("down", "", ""), ("", "", "")),
        (("down", "", "", ""), ("", "", "down", "")),
    ],
)
def test_numbers_stay_what_they_are_where_blocks_went_from_the_end(file, model):
    source, target = net(*file), net(*model)
    tg.load(target, source.state_dict())
    for number in range(len(model)):
        assert torch.equal(target["blocks"][number]["fc2"].weight, source["blocks"][number]["fc2"].weight)


def test_layers_settles_it():
    source, target = net("", "", "down", ""), net("", "down", "")
    tg.load(target, source.state_dict(), layers={"blocks": [1, 2, 3]})
    for number in range(3):
        for name, value in target["blocks"][number].state_dict().items():
            assert torch.equal(value, source["blocks"][number + 1].state_dict()[name])
