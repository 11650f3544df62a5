"""`prefer=` names a network by its path or a segment of it, or a part of a state dict by one or more segments in a row."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2))


@pytest.mark.parametrize("prefer", ["netG_B", "nets/netG_B", "nets.netG_B"])
def test_a_path_may_have_slashes_or_dots(prefer):
    file = {"nets": {name: filled(net()).state_dict() for name in ("netG_A", "netG_B")}}
    model = filled(net())
    tg.load(model, file, prefer=prefer)
    assert all(torch.equal(value, file["nets"]["netG_B"][name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("prefer", ["mean", "mean.", "shadow.mean", "shadow.mean.", "net.shadow.mean"])
def test_a_part_of_a_state_dict_may_be_told_by_several_segments(prefer):
    parts = {"net.live.": filled(net()).state_dict(), "net.shadow.mean.": filled(net()).state_dict()}
    model = filled(net())
    tg.load(model, {at + name: value for at, part in parts.items() for name, value in part.items()}, prefer=prefer)
    assert all(torch.equal(value, parts["net.shadow.mean."][name]) for name, value in model.state_dict().items())
