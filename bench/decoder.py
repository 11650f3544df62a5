"""A language model of any size, in bfloat16: with q, k, v and gate, up apart, or joined."""

from __future__ import annotations

import torch
from torch import nn

WIDTH, WORDS = 1024, 8192
MIB = 1024


class Attention(nn.Module):
    def __init__(self, width, *, joined):
        super().__init__()
        if joined:
            self.qkv_proj = nn.Linear(width, 2 * width, bias=False)
        else:
            self.q_proj = nn.Linear(width, width, bias=False)
            self.k_proj = nn.Linear(width, width // 2, bias=False)
            self.v_proj = nn.Linear(width, width // 2, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)


class Feed(nn.Module):
    def __init__(self, width, *, joined):
        super().__init__()
        inner = 3 * width
        if joined:
            self.gate_up_proj = nn.Linear(width, 2 * inner, bias=False)
        else:
            self.gate_proj = nn.Linear(width, inner, bias=False)
            self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)


class Layer(nn.Module):
    def __init__(self, width, *, joined):
        super().__init__()
        self.self_attn = Attention(width, joined=joined)
        self.mlp = Feed(width, joined=joined)
        self.input_layernorm = nn.RMSNorm(width)
        self.post_attention_layernorm = nn.RMSNorm(width)


class Decoder(nn.Module):
    def __init__(self, layers, *, joined):
        super().__init__()
        self.embed_tokens = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer(WIDTH, joined=joined) for _ in range(layers))
        self.norm = nn.RMSNorm(WIDTH)


def decoder(*, joined=False):
    """Return a decoder of about MIB mebibytes."""
    each = 2 * 12 * WIDTH * WIDTH / 2**20
    return Decoder(max(1, round((MIB - 2 * WORDS * WIDTH / 2**20) / each)), joined=joined).to(torch.bfloat16)
