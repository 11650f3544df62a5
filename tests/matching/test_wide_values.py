"""Fused rows whose parts aren't equal: values wider than queries and keys, and orders that only libraries know."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Attention(nn.Module):
    def __init__(self, rows, *, fused, offsets=False, names=("q", "k", "v")):
        super().__init__()
        if fused:
            self.qkv = nn.Linear(24, sum(rows))
        else:
            for name, size in zip(names, rows, strict=True):
                self.add_module(name, nn.Linear(24, size))
        self.proj = nn.Linear(max(rows), 24)
        if offsets:
            self.attention_biases = nn.Parameter(torch.randn(4, 9))


def network(rows, **kinds):
    blocks = [
        nn.ModuleDict({"norm": nn.LayerNorm(24), "attn": Attention(rows, **kinds), "fc": nn.Linear(24, 24)})
        for _ in range(2)
    ]
    return nn.ModuleDict({"stem": nn.Linear(5, 24), "blocks": nn.ModuleList(blocks), "head": nn.Linear(24, 7)})


@pytest.mark.parametrize("names", [("q", "k", "v"), ("q_proj", "k_proj", "v_proj"), ("query", "key", "value")])
@pytest.mark.parametrize("rows", [(8, 8, 8), (8, 8, 16), (8, 8, 32), (16, 4, 4)], ids=str)
def test_parts_are_cut_as_the_model_has_them(rows, names):
    """The way back takes as many columns as there are values, or queries where these are more than keys."""
    source, model = network(rows, fused=True), network(rows, fused=False, names=names)
    report = tg.load(model, source.state_dict())
    assert not report.plan.fresh
    for ours, theirs in zip(model["blocks"], source["blocks"], strict=True):
        for role in ("weight", "bias"):
            parts = [getattr(getattr(ours["attn"], name), role) for name in names]
            assert torch.equal(torch.cat(parts), getattr(theirs["attn"].qkv, role))


@pytest.mark.parametrize("there", [(8, 8, 12), (8, 4, 16), (12, 8, 8)], ids=str)
def test_a_part_of_other_sizes_puts_the_others_in_doubt(there):
    source, model = network((8, 8, 16), fused=True), network(there, fused=False)
    plan = tg.plan(model, source.state_dict())
    filled = [s for s in plan.steps if ".attn." in s.slot.name and ".proj." not in s.slot.name and s.feeds]
    assert all(step.why.doubt for step in filled)


def test_rows_beside_biases_by_offset_may_go_head_by_head():
    """As in LeViT: nothing of the names but that says so."""
    source, model = (network((8, 8, 8), fused=fused, offsets=True) for fused in (True, False))
    plan = tg.plan(model, source.state_dict())
    doubted = {step.slot.name for step in plan.doubtful}
    assert doubted == {f"blocks.{n}.attn.{p}.{r}" for n in (0, 1) for p in "qkv" for r in ("weight", "bias")}


@pytest.mark.parametrize("table", ["mlp", "relative_position_bias_table"])
def test_attention_of_maxvit_and_coatnet_goes_head_by_head_or_not(table):
    """Its blocks lie in stages behind a stem, with a module for relative positions in each attention."""

    def stage(*, fused):
        attention = Attention((8, 8, 8), fused=fused)
        attention.rel_pos = nn.Module()
        if table == "mlp":
            attention.rel_pos.mlp = nn.ModuleDict({"fc1": nn.Linear(2, 6), "fc2": nn.Linear(6, 4)})
        else:
            attention.rel_pos.relative_position_bias_table = nn.Parameter(torch.randn(9, 4))
        return nn.ModuleDict(
            {"blocks": nn.ModuleList([nn.ModuleDict({"attn_block": nn.ModuleDict({"attn": attention})})])}
        )

    source, model = (
        nn.ModuleDict(
            {"stem": nn.ModuleDict({"conv1": nn.Conv2d(3, 24, 3)}), "stages": nn.ModuleList([stage(fused=f)])}
        )
        for f in (True, False)
    )
    plan = tg.plan(model, source.state_dict())
    assert {step.slot.name.split(".")[-2] for step in plan.doubtful} == {"q", "k", "v"}
    assert tg.plan(source, source.state_dict()).refusals == ()
