"""Rivals that lie deeper in lists are not told apart by lists around them that say nothing."""

import torch
from filling import nested
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

NORM, WIDEN, NARROW, SQUARE, FUSED = (8,), (16, 8), (8, 16), (8, 8), (24, 8)


def named():
    """An encoder, and a head that attends, too: the shape of each layer's weight."""
    layer = {f"self_attn.{name}": SQUARE for name in ("k_proj", "v_proj", "q_proj", "out_proj")}
    layer |= {"layer_norm1": NORM, "mlp.fc1": WIDEN, "mlp.fc2": NARROW, "layer_norm2": NORM}
    head = {
        "attention.qkv": FUSED,
        "attention.out_proj": SQUARE,
        "layernorm": NORM,
        "mlp.fc1": WIDEN,
        "mlp.fc2": NARROW,
    }
    return (
        {"embeddings.patch_embedding": (8, 3, 2, 2), "embeddings.position_embedding": (4, 8)}
        | {f"encoder.layers.{i}.{name}": shape for i in range(3) for name, shape in layer.items()}
        | {"post_layernorm": NORM}
        | {f"head.{name}": shape for name, shape in head.items()}
    )


def numbered():
    """The same parts in a list, the head first: the layers of the encoder lie deeper in lists than those of the head."""
    layer = {"0": NORM, "1": NORM, "2.0": WIDEN, "2.1": NARROW}
    layer |= {f"4.{name}": SQUARE for name in ("wq", "k", "v", "o_proj")}
    head = {"0": NORM, "2.qkv": FUSED, "2.o_proj": SQUARE, "3.0": WIDEN, "3.1": NARROW}
    return (
        {f"0.{name}": shape for name, shape in head.items()}
        | {f"2.blocks.{i}.{name}": shape for i in range(3) for name, shape in layer.items()}
        | {"3.0": (8, 3, 2, 2), "3.1": (4, 8), "4": NORM}
    )


def built(shapes):
    return nested({path: layer(shape) for path, shape in shapes.items()})


def layer(shape):
    made = nn.Module()
    made.weight = nn.Parameter(torch.randn(shape))
    made.bias = None if shape == (4, 8) else nn.Parameter(torch.randn(shape[0]))
    return made


def test_a_part_of_a_list_is_not_taken_for_a_member_of_a_list_deeper_in_it():
    plan = tg.plan(built(named()), built(numbered()).state_dict(), on_doubt="take")
    for step in plan.steps:
        if step.certainty is Certainty.CERTAIN:
            is_head = step.slot.name.startswith("head.")
            assert all(feed.key.startswith("0.") == is_head for feed in step.feeds), step.slot.name
