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


STATED = [
    ("replicated", Shares("replicated", stated=True), (6, 4)),
    ("rows", Shares("rows", stated=True), (12, 4)),
    ("columns", Shares("columns", stated=True), (6, 8)),
    ("qkv", Shares("parts", (1, 1, 1), stated=True), (12, 4)),
    ("kv", Shares("parts", (1, 1), stated=True), (12, 4)),
]


@pytest.mark.parametrize(("kind", "share", "whole"), STATED)
def test_what_is_stated_of_a_tensor_counts(kind, share, whole):
    networks = [
        Network(f"rank_{n}", {"attn.qkv.weight": TensorSpec("attn.qkv.weight", (6, 4), DType.F32)}, "model")
        for n in range(2)
    ]
    slots = [Slot(spec=TensorSpec("attn.qkv.weight", (6, 4), DType.F32))]
    ranks = join_ranks(networks, slots, {"attn.*": kind})
    assert ranks.shares == {"attn.qkv.weight": share}
    assert ranks.network.specs["attn.qkv.weight"].shape == whole


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"attn.qkv.weight": "halves"}, "use replicated, rows, columns, qkv or kv"),
        ({"mlp.*": "rows"}, "no tensor of the file is called 'mlp"),
    ],
)
def test_what_makes_no_sense_of_the_ranks_is_refused(stated, words):
    ranks = {f"rank_{n}": {"attn.qkv.weight": torch.randn(6, 4)} for n in range(2)}
    model = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(4, 12, bias=False)})})
    with pytest.raises(tg.UsageError, match=words):
        tg.plan(model, ranks, tensor_parallel=stated)


def test_shares_of_fused_rows_are_joined_part_by_part_once_it_is_said():
    parts = [torch.randn(4, 4) for _ in range(3)]
    shares = [torch.cat([part.chunk(2)[rank] for part in parts]) for rank in range(2)]
    model = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": nn.Linear(4, 12, bias=False)})})
    file = {f"rank_{rank}": {"attn.qkv.weight": share} for rank, share in enumerate(shares)}
    with pytest.raises(tg.PlanRefusedError, match="or just the next rows: say which with tensor_parallel="):
        tg.load(model, file)
    tg.load(model, file, tensor_parallel={"attn.qkv.weight": "qkv"})
    assert torch.equal(model["attn"]["qkv"].weight, torch.cat(parts))
    tg.load(model, file, tensor_parallel={"attn.qkv.weight": "rows"})
    assert torch.equal(model["attn"]["qkv"].weight, torch.cat(shares))
