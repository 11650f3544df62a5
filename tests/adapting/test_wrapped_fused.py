"""Fused q, k, v inside a wrapper (an adapter's, say) keep their rows in the order that the wrapper's name tells."""

import pytest
import torch
from torch import nn

import torchgraft as tg

WIDTH, HEADS = 24, 4


class Wrapped(nn.Module):
    """As an adapter's library wraps a layer: the layer itself, and two small ones beside it."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 12, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(12, layer.out_features, bias=False)})


class Attention(nn.Module):
    def __init__(self, name, wrap):
        super().__init__()
        self.num_heads = HEADS
        setattr(self, name, wrap(nn.Linear(WIDTH, 3 * WIDTH)))
        self.dense = nn.Linear(WIDTH, WIDTH)


class Block(nn.Module):
    def __init__(self, attention, name, wrap):
        super().__init__()
        setattr(self, attention, Attention(name, wrap))
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)


class Net(nn.Module):
    def __init__(self, attention, name, wrap=lambda layer: layer):
        super().__init__()
        self.layers = nn.ModuleList([Block(attention, name, wrap) for _ in range(3)])


def bare(layer):
    """Wrap a layer alone."""
    outer = nn.Module()
    outer.inner = layer
    return outer


def head_by_head(rows):
    parts = rows.view(3, HEADS, WIDTH // HEADS, *rows.shape[1:])
    return parts.transpose(0, 1).reshape(rows.shape)


@pytest.mark.parametrize("wrap", [Wrapped, bare])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_rows_are_put_in_the_order_of_the_wrapped_layer(wrap, part):
    source = Net("attn", "c_attn").state_dict()
    model = Net("attention", "query_key_value", wrap)
    tg.load(model, source)
    for number in range(3):
        rows = source[f"layers.{number}.attn.c_attn.{part}"]
        held = model.layers[number].attention.query_key_value
        assert torch.equal(getattr(held.base_layer if wrap is Wrapped else held.inner, part), head_by_head(rows))


@pytest.mark.parametrize("wrap", [Wrapped, bare])
def test_rows_of_a_wrapped_layer_of_the_file_too(wrap):
    source = Net("attn", "query_key_value", wrap).state_dict()
    model = Net("attn", "qkv")
    tg.load(model, source)
    held = "base_layer" if wrap is Wrapped else "inner"
    for number in range(3):
        rows = source[f"layers.{number}.attn.query_key_value.{held}.weight"]
        assert torch.equal(head_by_head(model.layers[number].attn.qkv.weight), rows)


def test_parts_are_joined_into_a_wrapped_layer():
    source = Net("attn", "qkv").state_dict()
    for number in range(3):
        for part in ("weight", "bias"):
            rows = source.pop(f"layers.{number}.attn.qkv.{part}").chunk(3)
            source |= {f"layers.{number}.attn.{c}_proj.{part}": v.clone() for c, v in zip("qkv", rows, strict=True)}
    model = Net("attn", "query_key_value", Wrapped)
    tg.load(model, source)
    for number in range(3):
        rows = torch.cat([source[f"layers.{number}.attn.{c}_proj.weight"] for c in "qkv"])
        assert torch.equal(model.layers[number].attn.query_key_value.base_layer.weight, head_by_head(rows))


def test_one_packing_goes_over_whole_as_certain():
    source = Net("attn", "qkv").state_dict()
    model = Net("attn", "qkv", Wrapped)
    tg.load(model, source, accept="certain")
    assert torch.equal(model.layers[1].attn.qkv.base_layer.weight, source["layers.1.attn.qkv.weight"])


def test_factors_of_adapters_are_not_put_in_another_order_in_silence():
    """They have the rows of the layer that they adapt."""
    source = Net("attn", "c_attn", Wrapped).state_dict()
    model = Net("attention", "query_key_value", Wrapped)
    with pytest.raises(tg.PlanRefusedError, match=r"lora_B"):
        tg.load(model, source)
