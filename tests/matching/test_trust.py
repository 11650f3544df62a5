"""A row of layers of which one side keeps the first outside."""

import pytest
from torch import nn

import torchgraft as tg


def head(*, outside):
    layers = [nn.Linear(8, 8) for _ in range(3)]
    if outside:
        parts = {"proj_in": layers[0], "layers": nn.ModuleList(layers[1:2]), "proj_out": layers[2]}
    else:
        parts = {"layers": nn.ModuleList(layers)}
    return nn.ModuleDict({"stem": nn.Conv2d(3, 8, 1), "head": nn.ModuleDict(parts), "last": nn.Linear(8, 2)})


@pytest.mark.parametrize("outside", [False, True])
def test_the_same_number_may_be_another_layer(outside):
    plan = tg.plan(head(outside=outside), head(outside=not outside).state_dict(), on_doubt="skip", min_coverage=0.0)
    same = [
        s for s in plan.steps if s.feeds and s.feeds[0].key == s.slot.name and s.slot.name.startswith("head.layers.0")
    ]
    assert same == []


def test_names_decide_where_nothing_is_left_over():
    model = head(outside=True)
    plan = tg.plan(model, model.state_dict())
    assert all(step.feeds[0].key == step.slot.name for step in plan.steps)
