"""A norm before a layer is none behind it."""

import pytest
from filling import filled
from torch import nn

import torchgraft as tg


def net(name, *, pre):
    def block():
        norm, layers = nn.LayerNorm(6), {"up": nn.Linear(6, 12), "down": nn.Linear(12, 6)}
        return nn.ModuleDict({name: norm, **layers} if pre else {**layers, name: norm})

    parts = {"emb": nn.Embedding(9, 6), "blocks": nn.ModuleList([block(), block()]), "head": nn.Linear(6, 7)}
    return filled(nn.ModuleDict(parts))


NAMES = [
    ("pre_ffn_norm", "post_ffn_norm"),
    ("before_ffn_norm", "after_ffn_norm"),
    ("norm_before_ffn", "norm_after_ffn"),
    ("ffn_pre_norm", "ffn_post_norm"),
]


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("pre", [True, False])
@pytest.mark.parametrize("moved", [True, False])
def test_a_norm_that_moved_behind_its_layers_is_in_doubt(names, pre, moved):
    """Also where it is registered at the same place: only its name says then where it runs."""
    ours, theirs = names[:: 1 if pre else -1]
    steps = tg.plan(net(theirs, pre=not pre if moved else pre), net(ours, pre=pre).state_dict()).steps
    norms = [step for step in steps if "norm" in step.slot.name]
    assert all(step.certainty is tg.Certainty.DOUBT or not step.feeds for step in norms)
