"""A module that both sides have tells its layers that one side calls otherwise, or counts: by kinds, by shapes, by numbers."""

import torch

import torchgraft as tg
from torchgraft.core.plan import Certainty


def layer(name, ours, theirs):
    return {f"{name}.weight": (ours, theirs), f"{name}.bias": (ours,)}


def network(*layers):
    """Return layers by name and shape, in front of them a body and behind them a head that both sides have."""
    found = layer("body.first", 60, 50) | layer("body.second", 8, 60) | layer("body.third", 8, 8)
    for one in layers:
        found |= layer(*one)
    return found | layer("head", 3, 9)


def pairs(ours, theirs, *, order=list):
    """Return who feeds whom, of what is sure; the file comes in an `order`."""
    file, model = (
        {name: torch.empty(side[name]) for name in names} for side, names in ((ours, order(ours)), (theirs, theirs))
    )
    plan = tg.plan(model, file)
    return {
        step.slot.name: step.feeds[0].key
        for step in plan.steps
        if step.feeds and step.certainty is not Certainty.DOUBT and step.slot.name.endswith("weight")
    }


def test_the_word_for_a_kind_of_layer_is_another_one():
    ours = network(("rgb.fc", 9, 8), ("flow.fc", 9, 8))
    theirs = network(("rgb.linear", 9, 8), ("flow.linear", 9, 8))
    for order in (list, sorted):
        found = pairs(ours, theirs, order=order)
        assert found["rgb.linear.weight"] == "rgb.fc.weight"
        assert found["flow.linear.weight"] == "flow.fc.weight"


def test_the_word_is_shortened():
    assert pairs(network(("conv2", 9, 8)), network(("c2", 9, 8)))["c2.weight"] == "conv2.weight"


def test_not_another_word():
    assert "out.weight" not in pairs(network(("fc", 9, 8)), network(("out", 9, 8)))


def test_not_another_number():
    assert "linear3.weight" not in pairs(network(("fc2", 9, 8)), network(("linear3", 9, 8)))


def test_not_where_another_layer_may_be_meant():
    theirs = network(("linear", 9, 8), ("dense", 9, 8))
    assert pairs(network(("fc", 9, 8)), theirs).keys().isdisjoint({"linear.weight", "dense.weight"})


def test_a_row_that_one_side_counts():
    ours = network(("net.0", 16, 8), ("net.2", 9, 16))
    theirs = network(("net.up", 16, 8), ("net.back", 9, 16))
    for order in (list, sorted):
        found = pairs(ours, theirs, order=order)
        assert found["net.up.weight"] == "net.0.weight"
        assert found["net.back.weight"] == "net.2.weight"
        assert pairs(theirs, ours, order=order)["net.2.weight"] == "net.back.weight"


def test_layers_of_one_shape_are_told_by_their_numbers():
    ours = network(("net.0", 8, 8), ("net.2", 8, 8), ("net.4", 9, 8))
    found = pairs(ours, network(("net.fc1", 8, 8), ("net.fc2", 8, 8), ("net.fc3", 9, 8)))
    assert found["net.fc1.weight"] == "net.0.weight"
    assert found["net.fc2.weight"] == "net.2.weight"


def test_but_by_nothing_where_they_have_none_or_stand_in_another_order():
    ours = network(("net.0", 8, 8), ("net.2", 8, 8), ("net.4", 9, 8))
    for first, second in (("keys", "values"), ("fc2", "fc1")):
        found = pairs(ours, network((f"net.{first}", 8, 8), (f"net.{second}", 8, 8), ("net.last", 9, 8)))
        assert found.keys().isdisjoint({f"net.{first}.weight", f"net.{second}.weight"})
