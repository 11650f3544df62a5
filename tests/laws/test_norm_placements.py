"""Transformer blocks of two libraries: whatever their norms are called and in whatever order they are registered, none goes wrong."""

from collections import OrderedDict
from itertools import permutations

import pytest
import torch
from torch import nn

import torchgraft as tg

# What libraries call the norms of a block, by where these run: before and behind attention (and then the feed-forward part).
BEFORE = [
    ("norm1", "norm2"),
    ("ln_1", "ln_2"),
    ("input_layernorm", "post_attention_layernorm"),
    ("attention_norm", "ffn_norm"),
    ("layernorm_before", "layernorm_after"),
    ("pre_norm", "post_attention_norm"),
    ("self_attn_layer_norm", "final_layer_norm"),
]
BEHIND = [
    ("norm1", "norm2"),
    ("post_attention_layernorm", "post_feedforward_layernorm"),
    ("post_attn_norm", "post_ffw_norm"),
    ("post_attention_layernorm", "post_mlp_layernorm"),
    ("sa_layer_norm", "output_layer_norm"),
]
BOTH = [
    ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ("pre_attention_norm", "post_attention_norm", "pre_ffw_norm", "post_ffw_norm"),
    ("attn_norm", "post_attn_norm", "ffn_norm", "post_ffn_norm"),
    ("norm1", "norm2", "norm3", "norm4"),
]
LAYERS = (("self_attn", "mlp"), ("attn", "mlp"), ("attention", "feed_forward"))
PROJECTIONS = (("q_proj", "k_proj", "v_proj", "o_proj"), ("to_q", "to_k", "to_v", "to_out"))
WIDTH = 6


def tower(norms, style, depth, order):
    """Return a model of blocks whose norms have these names; `order` says which of norms, attention, layers come first."""
    names = LAYERS[style % 3], PROJECTIONS[style % 2]
    blocks = nn.ModuleList()
    for _ in range(depth):
        attention = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in names[1]})
        inner = {"fc1": nn.Linear(WIDTH, 2 * WIDTH), "fc2": nn.Linear(2 * WIDTH, WIDTH)}
        parts = OrderedDict()
        for kind in order:
            if kind == "n":
                parts |= {name: nn.LayerNorm(WIDTH) for name in norms}
            elif kind == "a":
                parts[names[0][0]] = attention
            else:
                parts[names[0][1]] = nn.ModuleDict(inner)
        blocks.append(nn.ModuleDict(parts))
    made = nn.ModuleDict({"embed": nn.Embedding(11, WIDTH), ("blocks", "layers")[style % 2]: blocks})
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def wrong(placement, ours, theirs, depth, orders):
    """Return what goes into another norm without doubt when a model of the names `ours` is loaded into one of `theirs`."""
    source, target = tower(ours, 0, depth, orders[0]), tower(theirs, 1, depth, orders[1])
    role = dict(zip(theirs, ours, strict=True))
    plan = tg.plan(target, source.state_dict(), on_doubt="skip")
    return [
        (step.slot.name, step.feeds[0].key, placement)
        for step in plan.steps
        if step.feeds
        and (own := step.slot.name.split(".")[-2]) in role
        and step.feeds[0].key.split(".")[-2:] != [role[own], step.slot.name.split(".")[-1]]
    ]


CASES = [
    (placement, ours, theirs)
    for placement, names in (("before", BEFORE), ("behind", BEHIND), ("both", BOTH))
    for ours in names
    for theirs in names
    if ours != theirs
]


@pytest.mark.parametrize(
    ("placement", "ours", "theirs"), CASES, ids=lambda one: "-".join(one) if isinstance(one, tuple) else one
)
def test_no_norm_of_a_block_goes_into_another_without_doubt(placement, ours, theirs):
    assert wrong(placement, ours, theirs, 1, ("amn", "amn")) == []
    assert wrong(placement, ours, theirs, 2, ("nam", "amn")) == []


@pytest.mark.parametrize("order", ["".join(some) for some in permutations("nam")])
def test_norms_behind_both_parts_are_told_apart_in_any_order(order):
    for depth in (1, 2, 4):
        source = tower(("post_attention_layernorm", "post_feedforward_layernorm"), 0, depth, "amn")
        target = tower(("norm1", "norm2"), 1, depth, order)
        tg.load(target, source.state_dict())
        ours, theirs = source["blocks"][0], target["layers"][0]
        assert torch.equal(theirs["norm1"].weight, ours["post_attention_layernorm"].weight)
        assert torch.equal(theirs["norm2"].weight, ours["post_feedforward_layernorm"].weight)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_a_norm_called_the_first_does_not_go_into_the_second(depth):
    source = tower(("pre_norm", "post_norm"), 0, depth, "nam")
    target = tower(("norm2", "norm1"), 1, depth, "nam")
    plan = tg.plan(target, source.state_dict(), on_doubt="skip")
    fed = {step.slot.name.split(".")[-2]: step.feeds[0].key.split(".")[-2] for step in plan.steps if step.feeds}
    assert fed.get("norm2") != "pre_norm"
    assert fed.get("norm1") != "post_norm"
