"""Ranks of a tensor-parallel checkpoint are joined in the order of their numbers, as the model's shapes show."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.dtypes import DType
from torchgraft.core.match import Shares
from torchgraft.core.specs import Network, Slot, TensorSpec
from torchgraft.matching import join_ranks


def test_rank_ten_comes_after_rank_nine():
    whole = torch.randn(24, 4)
    ranks = {f"rank_{n}": {"up.weight": part.clone()} for n, part in enumerate(whole.chunk(12))}
    model = nn.ModuleDict({"up": nn.Linear(4, 24, bias=False)})
    tg.load(model, dict(sorted(ranks.items())))
    assert torch.equal(model["up"].weight, whole)


@pytest.mark.parametrize(
    ("key", "share", "whole", "kind"),
    [
        ("norm.weight", (4,), (4,), Shares("replicated")),
        ("up.weight", (4, 4), (8, 4), Shares("rows")),
        ("down.weight", (4, 4), (4, 8), Shares("columns")),
        ("attn.qkv.weight", (6, 4), (12, 4), Shares("parts", (1, 1, 1))),
        ("attn.qkv.weight", (6, 4), (6, 8), Shares("columns")),
        ("attn.qkv.weight", (6, 4), (6, 4), Shares("replicated")),
    ],
)
def test_what_a_rank_holds_is_told_by_the_shape_of_the_whole(key, share, whole, kind):
    networks = [Network(f"rank_{n}", {key: TensorSpec(key, share, DType.F32)}, "model") for n in range(2)]
    ranks = join_ranks(networks, [Slot(spec=TensorSpec(key, whole, DType.F32))], {})
    assert ranks.shares == {key: kind}
    assert ranks.network.specs[key].shape == whole
