"""Kernels that fit as they are go there, though words send them where each would have to be turned."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg


def timm():
    """A block of MnasNet, where `conv_pw` widens and `conv_pwl` narrows."""
    convs = {
        "conv_pw": nn.Conv2d(8, 24, 1, bias=False),
        "conv_dw": nn.Conv2d(24, 24, 3, groups=24, bias=False),
        "conv_pwl": nn.Conv2d(24, 8, 1, bias=False),
    }
    norms = [nn.BatchNorm2d(conv.out_channels) for conv in convs.values()]
    parts = [part for n, (name, conv) in enumerate(convs.items()) for part in ((name, conv), (f"bn{n + 1}", norms[n]))]
    return nn.ModuleDict(parts)


def pytorchcv():
    """The same, where `exp_conv` widens and `pw_conv` narrows."""
    convs = {
        "exp_conv": nn.Conv2d(8, 24, 1, bias=False),
        "dw_conv": nn.Conv2d(24, 24, 3, groups=24, bias=False),
        "pw_conv": nn.Conv2d(24, 8, 1, bias=False),
    }
    return nn.ModuleDict(
        {name: nn.ModuleDict({"conv": conv, "bn": nn.BatchNorm2d(conv.out_channels)}) for name, conv in convs.items()}
    )


@pytest.mark.parametrize("turned_round", [False, True])
def test_of_two_like_convolutions_the_one_that_widens_goes_to_the_one_that_widens(turned_round):
    ours, theirs = (nn.ModuleList(block() for _ in range(3)) for block in (timm, pytorchcv))
    source, model = (theirs, ours) if turned_round else (ours, theirs)
    filled(source)
    tg.load(model, source.state_dict(), on_doubt="take")
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one["conv_pw"].weight, other["exp_conv"]["conv"].weight)
        assert torch.equal(one["conv_pwl"].weight, other["pw_conv"]["conv"].weight)
        assert torch.equal(one["bn3"].running_mean, other["pw_conv"]["bn"].running_mean)
