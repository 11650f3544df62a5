"""A single block beside a list of its like: any of them may be meant, or none."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg

WIDTH = 6


def block():
    attention = nn.ModuleDict({"query": nn.Linear(WIDTH, WIDTH), "out": nn.Linear(WIDTH, WIDTH)})
    return nn.ModuleDict({"attn": attention, "norm": nn.LayerNorm(WIDTH), "up": nn.Linear(WIDTH, 9)})


def net(length=3):
    return filled(
        nn.ModuleDict(
            {
                "embed": nn.Embedding(11, WIDTH),
                "layers": nn.ModuleList(block() for _ in range(length)),
                "head": nn.Linear(WIDTH, 3),
            }
        )
    )


@pytest.mark.parametrize("rest", [{}, {"head": 3}, {"embed": 11, "head": 3}])
def test_one_block_of_a_list_alone_is_not_chosen_without_a_word(rest):
    model = nn.ModuleDict({"body": block()})
    if "embed" in rest:
        model["embed"] = nn.Embedding(11, WIDTH)
    if "head" in rest:
        model["head"] = nn.Linear(WIDTH, 3)
    filled(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match="any of them may be meant"):
        tg.load(model, net().state_dict())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tg.load(model, net().state_dict(), rename={"layers.1.": "body."}, min_coverage=0)


def test_the_only_block_of_a_list_is_meant():
    model, file = filled(nn.ModuleDict({"body": block(), "head": nn.Linear(WIDTH, 3)})), net(1).state_dict()
    tg.load(model, file)
    assert torch.equal(model["body"]["up"].weight, file["layers.0.up.weight"])


def test_one_block_of_the_file_is_for_all_of_the_model():
    model, file = net(3), filled(nn.ModuleDict({"body": block(), "head": nn.Linear(WIDTH, 3)})).state_dict()
    report = tg.load(model, file)
    assert [step.slot.name for step in report.plan.fresh] == ["embed.weight"]
