"""A norm before a layer is none behind it."""

import pytest
from filling import filled
from torch import nn

import torchgraft as tg


def net(*, pre):
    def block():
        norm, layers = nn.LayerNorm(6), {"up": nn.Linear(6, 12), "down": nn.Linear(12, 6)}
        return nn.ModuleDict({"pre_ffn_norm": norm, **layers} if pre else {**layers, "post_ffn_norm": norm})

    parts = {"emb": nn.Embedding(9, 6), "blocks": nn.ModuleList([block(), block()]), "head": nn.Linear(6, 7)}
    return filled(nn.ModuleDict(parts))


@pytest.mark.parametrize("pre", [True, False])
def test_a_norm_that_moved_behind_its_layers_is_in_doubt(pre):
    steps = tg.plan(net(pre=not pre), net(pre=pre).state_dict()).steps
    norms = [step for step in steps if "norm" in step.slot.name]
    assert all(step.certainty is tg.Certainty.DOUBT or not step.feeds for step in norms)
