"""Biases that lie beside their layer: `q_bias` and `v_bias` beside a fused matrix, or beside `query` and `value`."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg

APART = ("query", "key", "value")


class Attention(nn.Module):
    """Query, key and value, fused or apart, with biases of the first and the last."""

    def __init__(self, *names):
        super().__init__()
        self.q_bias, self.v_bias = nn.Parameter(torch.empty(8)), nn.Parameter(torch.empty(8))
        for name in names:
            self.add_module(name, nn.Linear(8, 24 // len(names), bias=False))


def fused():
    attention = Attention("qkv")
    attention.proj = nn.Linear(8, 8)
    return nn.ModuleDict({"attn": attention, "norm1": nn.LayerNorm(8)})


def apart():
    output = nn.ModuleDict({"dense": nn.Linear(8, 8)})
    attention = nn.ModuleDict({"attention": Attention(*APART), "output": output})
    return nn.ModuleDict({"attention": attention, "layernorm_before": nn.LayerNorm(8)})


@pytest.mark.parametrize("fused_first", [True, False])
def test_the_layer_goes_where_its_bias_goes(fused_first):
    ours, theirs = (nn.ModuleList(one() for _ in range(2)) for one in (fused, apart))
    source, model = (ours, theirs) if fused_first else (theirs, ours)
    filled(source)
    tg.load(model, source.state_dict())
    for block, other in zip(ours, theirs, strict=True):
        one, two = block["attn"], other["attention"]["attention"]
        assert torch.equal(one.qkv.weight, torch.cat([getattr(two, name).weight for name in APART]))
        assert torch.equal(one.q_bias, two.q_bias)
        assert torch.equal(one.v_bias, two.v_bias)
