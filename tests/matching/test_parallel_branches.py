"""Branches side by side of the same shapes: the order in which a model registers them says nothing."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.errors import PlanRefusedError


def branch(*sizes):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(sizes)))


def test_branches_that_no_name_tells_apart_are_doubt():
    apart = nn.ModuleDict({"policy_net": branch(8, 16, 12), "value_net": branch(8, 16, 12)})
    other = nn.ModuleDict({"critic": branch(8, 16, 12), "actor_mean": branch(8, 16, 12)})
    with pytest.raises(PlanRefusedError):
        tg.load(other, apart.state_dict())


def test_branches_of_the_same_names_are_told_apart():
    one = nn.ModuleDict({"net": nn.ModuleDict({"left": branch(8, 16, 12), "right": branch(8, 16, 12)})})
    other = nn.ModuleDict({"right_branch": branch(8, 16, 12), "left_branch": branch(8, 16, 12)})
    tg.load(other, one.state_dict())
    assert torch.equal(other["left_branch"][1].weight, one["net"]["left"][1].weight)


def test_layers_of_a_row_go_by_their_order():
    one = nn.ModuleDict({"conv1": branch(8, 16, 12), "conv2": branch(12, 9), "conv3": branch(8, 16, 12)})
    other = nn.ModuleDict({"blocks": nn.Sequential(branch(8, 16, 12), branch(12, 9), branch(8, 16, 12))})
    tg.load(other, one.state_dict())
    assert torch.equal(other["blocks"][2][1].weight, one["conv3"][1].weight)
