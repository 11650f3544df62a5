"""A layer with a bias on one side only gives way to one of the same shapes that has it on both."""

import torch
from filling import filled
from torch import nn

import torchgraft as tg


def net(names, inside):
    """Blocks that widen without a bias, and inside of which two layers squeeze and widen with one."""

    def block():
        squeeze = nn.ModuleDict({inside[0]: nn.Conv2d(32, 8, 1), inside[1]: nn.Conv2d(8, 32, 1)})
        parts = (nn.Conv2d(8, 32, 1, bias=False), squeeze, nn.Conv2d(32, 8, 1, bias=False))
        return nn.ModuleDict(dict(zip(names, parts, strict=True)))

    return filled(nn.ModuleDict({"blocks": nn.Sequential(*(block() for _ in range(3)))}))


def test_words_that_happen_to_agree_don_t_exchange_layers_with_and_without_bias():
    source = net(("expand_conv", "squeeze_excite", "pw_linear"), ("reduce", "fc2"))
    target = net(("conv_pw", "se", "conv_pwl"), ("conv_reduce", "conv_expand"))
    tg.load(target, source.state_dict(), on_doubt="take")
    for ours, theirs in zip(source["blocks"], target["blocks"], strict=True):
        assert torch.equal(theirs["conv_pw"].weight, ours["expand_conv"].weight)
        assert torch.equal(theirs["se"]["conv_expand"].weight, ours["squeeze_excite"]["fc2"].weight)
