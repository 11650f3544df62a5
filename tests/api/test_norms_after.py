"""Blocks that normalise after attention and after the feed-forward part, under the names of two libraries."""

from torch import nn

import torchgraft as tg


def tower(kind, layers=2):
    return nn.ModuleDict({"layers": nn.ModuleList(kind() for _ in range(layers))})


def block(attention, norms, gated):
    made = nn.ModuleDict({norms[0]: nn.LayerNorm(16), norms[1]: nn.LayerNorm(16), "mlp": nn.ModuleDict()})
    made[attention] = nn.ModuleDict({"out_proj": nn.Linear(16, 16)})
    for name in gated[:2]:
        made["mlp"][name] = nn.Linear(16, 24, bias=False)
    made["mlp"][gated[2]] = nn.Linear(24, 16, bias=False)
    return made


def first():
    return block("attn", ("norm1", "norm2"), ("fc11", "fc12", "fc2"))


def second():
    return block("self_attn", ("post_attention_layernorm", "post_mlp_layernorm"), ("up_proj", "gate_proj", "down_proj"))


def test_norms_and_gates_are_not_exchanged():
    source, target = tower(first), tower(second)
    plan = tg.plan(target, source, on_doubt="take")
    pairs = {"post_attention_layernorm": "norm1", "post_mlp_layernorm": "norm2", "up_proj": "fc11", "gate_proj": "fc12",
             "down_proj": "fc2", "out_proj": "out_proj"}  # fmt: skip
    for step in plan.steps:
        own, role = step.slot.name.split(".")[-2:]
        assert step.feeds[0].key.split(".")[-2:] == [pairs[own], role], step.slot.name
