"""Norms go where their layers go, also in blocks that register their branches in another order."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg


def conv(width, out, size, *, norm=True):
    layer = nn.Conv2d(width, out, size, bias=False)
    if norm:
        layer.norm = nn.BatchNorm2d(out)
    return layer


def inside(width, out):
    """The shortcut first, norms inside of their layers."""
    shortcut = {"shortcut": conv(width, out, 1)} if width != out else {}
    return nn.ModuleDict(shortcut | {"conv1": conv(width, 4, 1), "conv2": conv(4, 4, 3), "conv3": conv(4, out, 1)})


def beside(width, out):
    """The shortcut last, norms behind their layers."""
    parts = {}
    for n, (a, b, size) in enumerate(((width, 4, 1), (4, 4, 3), (4, out, 1)), 1):
        parts |= {f"conv{n}": conv(a, b, size, norm=False), f"bn{n}": nn.BatchNorm2d(b)}
    if width != out:
        parts["downsample"] = nn.Sequential(conv(width, out, 1, norm=False), nn.BatchNorm2d(out))
    return nn.ModuleDict(parts)


def net(block, name):
    stages = {
        f"{name}{n + 1}": nn.Sequential(block(width, out), block(out, out)) for n, (width, out) in enumerate(SIZES)
    }
    return filled(nn.ModuleDict(stages))


SIZES = (8, 16), (16, 24)


@pytest.mark.parametrize("turned", [False, True])
def test_norms_of_a_shortcut_and_of_the_last_layer_aren_t_exchanged(turned):
    sides = net(inside, "res"), net(beside, "layer")
    source, target = reversed(sides) if turned else sides
    tg.load(target, source.state_dict())
    for n in (1, 2):
        ours, theirs = sides[0][f"res{n}"][0], sides[1][f"layer{n}"][0]
        for a, b in ((ours["shortcut"].norm, theirs["downsample"][1]), (ours["conv3"].norm, theirs["bn3"])):
            assert all(
                torch.equal(a.state_dict()[key], b.state_dict()[key]) for key in ("weight", "bias", "running_var")
            )
