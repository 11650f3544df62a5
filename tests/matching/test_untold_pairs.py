"""Rows that rotary embeddings turn, fused on one side only: their order is in doubt where both ways are in use."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 8


class Turning(nn.Module):
    """The frequencies lie in a buffer that no file holds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("inv_freq", torch.rand(2), persistent=False)


def vision(*, fused, rotary, learned):
    torch.manual_seed(fused)
    model, rows = nn.Module(), 3 * WIDTH
    model.patch = nn.Conv2d(3, WIDTH, 4)
    if rotary:
        model.rotary_emb = Turning()
    if learned:
        model.pos_embed = nn.Parameter(torch.rand(1, 5, WIDTH))
    model.layers = nn.ModuleList()
    for _ in range(2):
        attn = nn.ModuleDict(
            {"qkv": nn.Linear(WIDTH, rows)} if fused else {k: nn.Linear(WIDTH, WIDTH) for k in ("q", "k", "v")}
        )
        attn["proj"] = nn.Linear(WIDTH, WIDTH)
        model.layers.append(nn.ModuleDict({"norm1": nn.LayerNorm(WIDTH), "attn": attn}))
    return model


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("rotary", "learned", "doubted"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_queries_and_keys_are_in_doubt_where_both_ways_are_in_use(fused, rotary, learned, doubted):
    source = vision(fused=fused, rotary=False, learned=learned)
    target = vision(fused=not fused, rotary=rotary, learned=learned)
    plan = tg.plan(target, source.state_dict())
    in_doubt = {s.slot.name.split(".")[3] for s in plan.steps if s.certainty is Certainty.DOUBT}
    assert in_doubt == (({"q", "k"} if fused else {"qkv"}) if doubted else set())
    if doubted:
        with pytest.raises(tg.PlanRefusedError, match=r"rotary_emb\.inv_freq"):
            tg.load(target, source.state_dict())
