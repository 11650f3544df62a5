"""A plan can be made of names and shapes alone: a state dict on the meta device has no values to look at."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def net(*norms):
    """Layers, and norms of which some are beyond what the model has: they may repeat others, which only values tell."""
    return nn.ModuleDict({"fc": nn.Linear(4, 8)} | {name: nn.LayerNorm(8) for name in norms})


def test_what_only_values_tell_is_left_out_of_the_plan():
    with torch.device("meta"):
        source = net("norm", "old_norm", "older_norm").state_dict()
    plan = tg.plan(net("norm"), source)
    assert {u.spec.name for u in plan.unused} >= {"old_norm.weight", "older_norm.weight"}
    assert not plan.fresh


def test_a_load_says_that_there_are_none():
    model = net("norm")
    before = model["fc"].weight.clone()
    with torch.device("meta"):
        source = net("norm").state_dict()
    with pytest.raises(tg.TorchgraftError, match="meta device"):
        tg.load(model, source)
    assert torch.equal(model["fc"].weight, before)
