"""Thirty ways to get a loaded model wrong: what is done, which module diverges first, and the cause to be named."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F


class Fault(NamedTuple):
    """A change to a target that was loaded right; `module` and `operation` diverge first, for a reason of `kind`."""

    name: str
    architecture: str
    plant: object
    module: str
    operation: str
    kind: str
    mode: str = "eval"


def parameter(path, change):
    """Return a fault that changes one tensor in place."""

    def plant(model):
        with torch.no_grad():
            home, _, name = path.rpartition(".")
            change(getattr(model.get_submodule(home), name))

    return plant


def one_value(at, by=0.5):
    def change(tensor):
        tensor.view(-1)[at] += by

    return change


def transpose(tensor):
    tensor.copy_(tensor.T.clone())


def fresh(tensor):
    tensor.copy_(torch.randn_like(tensor).abs())


def swap(first, second):
    """Return a fault that swaps two tensors of one shape."""

    def plant(model):
        with torch.no_grad():
            a, b = model.get_parameter(first), model.get_parameter(second)
            kept = a.clone()
            a.copy_(b)
            b.copy_(kept)

    return plant


def parts(path, order):
    """Return a fault that reorders the equal parts of a fused tensor's rows."""

    def plant(model):
        with torch.no_grad():
            for kind in ("weight", "bias"):
                tensor = model.get_parameter(f"{path}.{kind}")
                chunks = [c.clone() for c in tensor.chunk(len(order), 0)]
                tensor.copy_(torch.cat([chunks[i] for i in order]))

    return plant


def setting(path, **values):
    """Return a fault that sets attributes of a module."""

    def plant(model):
        for name, value in values.items():
            setattr(model.get_submodule(path), name, value)

    return plant


def module(path, make):
    """Return a fault that puts another module in a place."""

    def plant(model):
        home, _, name = path.rpartition(".")
        owner = model.get_submodule(home)
        setattr(owner, name, make(getattr(owner, name)))

    return plant


def rotary_base(model):
    rotary = model.model.rotary_emb
    size = 2 * rotary.inv_freq.numel()
    rotary.inv_freq.copy_(1.0 / (500000.0 ** (torch.arange(0, size, 2) / size)))


def rotary_layout(model):
    rotary = model.model.rotary_emb
    plain = rotary.forward

    def interleaved(*args, **kwargs):
        half = rotary.inv_freq.numel()
        order = torch.arange(2 * half).view(2, half).T.reshape(-1)
        return tuple(table[..., order] for table in plain(*args, **kwargs))

    rotary.forward = interleaved


def norm_after(model):
    layer = model.model.layers[1]
    norm, attention = layer.input_layernorm.forward, layer.self_attn.forward
    layer.input_layernorm.forward = lambda x: x

    def attend(hidden_states, **kwargs):
        out, weights = attention(hidden_states=hidden_states, **kwargs)
        return norm(out), weights

    layer.self_attn.forward = attend


def train(path):
    def plant(model):
        model.get_submodule(path).train()

    return plant


def one_sided(model):
    conv = model.blocks[1][0].conv_dw
    pad, conv.padding = 2 * conv.padding[0], (0, 0)
    conv.register_forward_pre_hook(lambda _, given: F.pad(given[0], (0, pad, 0, pad)))


def circular(model):
    conv = model.layer1[0].conv2
    conv.padding_mode, conv._reversed_padding_repeated_twice = "circular", [1, 1, 1, 1]


def norm_after_activation(model):
    block = model.layer2[0]
    block.bn1, block.act1 = block.act1, block.bn1


def norm_first(model):
    model.layers[1].norm_first = True


def swapped_query_key(model):
    model.query, model.key = model.key, model.query


def epsilon_of_llama(model):
    model.model.layers[0].post_attention_layernorm.variance_epsilon = 0.05


FAULTS = [
    Fault("one wrong value", "resnet", parameter("layer2.0.conv1.weight", one_value(100)), "layer2.0.conv1", "convolution", "value"),
    Fault("batch norm eps", "resnet", setting("layer1.0.bn2", eps=1e-2), "layer1.0.bn2", "batch norm", "setting"),
    Fault("swapped norm", "resnet", swap("layer3.0.bn1.weight", "layer3.0.bn2.weight"), "layer3.0.bn1", "batch norm", "swapped"),
    Fault("buffer missing", "resnet", parameter("bn1.running_var", fresh), "bn1", "batch norm", "value"),
    Fault("stride", "resnet", lambda m: (setting("layer4.0.conv1", stride=(1, 1))(m), setting("layer4.0.downsample.0", stride=(1, 1))(m)), "layer4.0.conv1", "convolution", "setting"),
    Fault("activation", "resnet", module("layer1.0.act1", lambda _: nn.LeakyReLU(0.1)), "layer1.0.act1", "activation", "activation"),
    Fault("train mode", "resnet", train("layer2.0.bn1"), "layer2.0.bn1", "batch norm", "mode", "as is"),
    Fault("padding mode", "resnet", circular, "layer1.0.conv2", "copy", "padding"),
    Fault("norm after activation", "resnet", norm_after_activation, "layer2.0.bn1", "activation", "structure"),
    Fault("scaled", "vit", parameter("blocks.0.mlp.fc1.weight", lambda t: t.mul_(1.1)), "blocks.0.mlp.fc1", "matrix product", "scaled"),
    Fault("order of q, k and v", "vit", parts("blocks.0.attn.qkv", (1, 0, 2)), "blocks.0.attn.qkv", "matrix product", "order"),
    Fault("heads", "vit", setting("blocks.1.attn", num_heads=2, head_dim=16, scale=0.25), "blocks.1.attn", "attention", "heads"),
    Fault("transposed square", "vit", parameter("blocks.1.attn.proj.weight", transpose), "blocks.1.attn.proj", "matrix product", "transposed"),
    Fault("layer norm eps", "vit", setting("blocks.1.norm1", eps=0.1), "blocks.1.norm1", "layer norm", "setting"),
    Fault("other gelu", "vit", module("blocks.0.mlp.act", lambda _: nn.GELU(approximate="tanh")), "blocks.0.mlp.act", "activation", "activation"),
    Fault("one wrong position", "vit", parameter("pos_embed", one_value(40)), "", "sum", "value"),
    Fault("padding of one side", "efficientnet", one_sided, "blocks.1.0.conv_dw", "padding", "padding"),
    Fault("hard swish", "efficientnet", module("blocks.1.0.bn1.act", lambda _: nn.Hardswish()), "blocks.1.0.bn1.act", "activation", "activation"),
    Fault("dilation", "efficientnet", setting("blocks.1.1.conv_dw", dilation=(2, 2), padding=(2, 2)), "blocks.1.1.conv_dw", "convolution", "setting"),
    Fault("rotary base", "llama", rotary_base, "model.layers.0.self_attn", "product", "rotary"),
    Fault("rotary layout", "llama", rotary_layout, "model.layers.0.self_attn", "product", "rotary"),
    Fault("gate and up", "llama", swap("model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"), "model.layers.1.mlp.gate_proj", "matrix product", "swapped"),
    Fault("rms norm eps", "llama", epsilon_of_llama, "model.layers.0.post_attention_layernorm", "sum", "setting"),
    Fault("norm after", "llama", norm_after, "model.layers.1.self_attn.q_proj", "matrix product", "structure"),
    Fault("scale", "llama", setting("model.layers.0.self_attn", scaling=0.5), "model.layers.0.self_attn", "product", "scale"),
    Fault("swapped projections", "bert", swap("encoder.layer.1.attention.self.query.weight", "encoder.layer.1.attention.self.value.weight"), "encoder.layer.1.attention.self.query", "matrix product", "swapped"),
    Fault("dropout on", "bert", train("embeddings.dropout"), "embeddings.dropout", "dropout", "mode", "as is"),
    Fault("one wrong embedding", "bert", parameter("embeddings.token_type_embeddings.weight", one_value(3)), "embeddings.token_type_embeddings", "embedding", "value"),
    Fault("negative slope", "speech", setting("act", negative_slope=0.3), "act", "activation", "activation"),
    Fault("groups of a norm", "speech", setting("norm1", num_groups=8), "norm1", "group norm", "setting"),
    Fault("recurrent weight", "speech", parameter("rnn.weight_hh_l0_reverse", one_value(9)), "rnn", "recurrence", "value"),
    Fault("heads by hand", "speech", setting("", heads=8), "", "matrix product", "heads"),
    Fault("query and key", "speech", swapped_query_key, "query", "matrix product", "swapped"),
]  # fmt: skip
