"""Which convolution is the first, whose input channels may be adapted, hangs on the model and not on a file's order."""

import random

import pytest
import torch
from torch import nn

import torchgraft as tg


def body(channels):
    return nn.ModuleDict({
        "conv": nn.Conv2d(channels, 6, 3, bias=False), "bn": nn.BatchNorm2d(6), "deep": nn.Conv2d(6, 6, 3), "last": nn.Conv2d(6, 6, 3),
    })  # fmt: skip


def shuffled(keys, seed):
    return random.Random(seed).sample(list(keys), len(keys))  # noqa: S311  # no secrets


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_every_branch_that_one_file_fills_has_a_first_layer(seed):
    state = body(3).state_dict()
    keys = sorted(state) if seed is None else shuffled(state, seed)
    model = nn.ModuleDict({"colour": body(3), "depth": body(1)})
    tg.load(model, {key: state[key] for key in keys}, fan_out={"": ["colour", "depth"]})
    assert torch.equal(model["colour"]["conv"].weight, state["conv.weight"])
    assert torch.allclose(model["depth"]["conv"].weight, state["conv.weight"].sum(1, keepdim=True), atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_layer_that_a_shuffled_file_has_first_is_none(seed):
    state = body(3).state_dict()
    keys = dict.fromkeys(["deep.weight", *shuffled(state, seed)])
    model = body(3)
    model["deep"] = nn.Conv2d(4, 6, 3)
    before = model["deep"].weight.clone()
    report = tg.load(model, {key: state[key] for key in keys})
    assert torch.equal(model["deep"].weight, before)
    assert "deep.weight" in {s.slot.name for s in report.plan.fresh}


@pytest.mark.parametrize("half", [(), ("b20.weight",)], ids=["one type", "two types"])
def test_a_layer_that_a_file_sorted_by_type_and_name_has_first_is_none(half):
    def net(channels):
        body = {f"b{n}": nn.Conv2d(6, 6, 3, bias=False) for n in range(10, 40)}
        return nn.ModuleDict(
            {"stem": nn.Conv2d(3, 6, 3, bias=False), **body, "aux": nn.Conv2d(channels, 6, 3, bias=False)}
        )

    state = {name: value.half() if name in half else value for name, value in net(4).state_dict().items()}
    file = {name: state[name] for name in sorted(state, key=lambda name: (name in half, name))}
    plan = tg.plan(net(6), file)
    assert [step.slot.name for step in plan.steps if not step.feeds] == ["aux.weight"]


@pytest.mark.parametrize("groups", [1, 2])
def test_channels_of_groups_are_not_summed_up(groups):
    """What a depthwise layer has on its second axis is no colour: each kernel reads another channel."""
    state = nn.Sequential(nn.Conv2d(3 * groups, 6, 3, groups=groups), nn.Conv2d(6, 8, 3)).state_dict()
    model = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 8, 3))
    before = model[0].weight.clone()
    report = tg.load(model, state)
    assert torch.equal(model[0].weight, before)
    assert "the layer has 6 groups" in report.plan.by_name["0.weight"].why.text
    tg.load(model, state, in_channels={"0.weight": "sum"})
    assert torch.allclose(model[0].weight, state["0.weight"].sum(1, keepdim=True), atol=1e-6)


def volumes(channels, *, deep, size=3):
    """Return two convolutions of images or of volumes."""
    conv = nn.Conv3d if deep else nn.Conv2d
    return nn.Sequential(conv(channels, 6, size), conv(6, 6, 3))


def test_colours_do_not_become_the_depth_of_a_volume():
    """[6, 3, 3, 3] has as many numbers as [6, 1, 3, 3, 3], and other axes."""
    file, model = volumes(3, deep=False), volumes(1, deep=True)
    with pytest.raises(tg.PlanRefusedError, match="as colours would be the depth of a volume"):
        tg.load(model, file)
    with pytest.raises(tg.PlanRefusedError, match="as colours would be the depth of a volume"):
        tg.load(volumes(3, deep=False), volumes(1, deep=True))
    tg.load(model, file, in_channels={"0": "sum"})
    summed = file[0].weight.sum(1, keepdim=True).unsqueeze(2).expand(-1, -1, 3, -1, -1) / 3
    assert torch.allclose(model[0].weight, summed, atol=1e-6)


@pytest.mark.parametrize(("rule", "made"), [({}, "sum"), ({"in_channels": {"0": "mean"}}, "mean")])
def test_a_first_layer_of_images_gets_a_depth_and_another_number_of_channels_at_once(rule, made):
    file, model = volumes(3, deep=False, size=5), volumes(1, deep=True, size=5)
    tg.load(model, file, **rule)
    one = getattr(file[0].weight, made)(1, keepdim=True).unsqueeze(2).expand(-1, -1, 5, -1, -1) / 5
    assert torch.allclose(model[0].weight, one, atol=1e-6)


def test_a_kernel_that_gains_an_axis_beside_its_channels_keeps_them():
    file, model = nn.Sequential(nn.Conv1d(3, 6, 5)), nn.Sequential(nn.Conv2d(3, 6, (5, 1)))
    tg.load(model, file)
    assert torch.equal(model[0].weight[..., 0], file[0].weight)


def test_what_is_said_of_input_channels_counts_for_a_linear_layer_too():
    file, model = (nn.ModuleDict({"enter": nn.Linear(size, 4), "deep": nn.Linear(4, 4)}) for size in (5, 7))
    tg.load(model, file, in_channels={"enter.weight": "zero"})
    assert torch.equal(model["enter"].weight[:, :5], file["enter"].weight)
    assert not model["enter"].weight[:, 5:].any()


@pytest.mark.parametrize("rule", ["zero", "fill-mean", "copy:0", "copy:5"])
def test_a_rule_for_further_channels_leads_to_no_fewer(rule):
    """It was found out while loading: the plan said that all was well."""
    file, model = nn.Conv2d(3, 8, 3), nn.Conv2d(2, 8, 3)
    with pytest.raises(tg.PlanRefusedError, match=f"rule '{rule}' doesn't lead to 2 channels"):
        tg.load(model, file, in_channels={"weight": rule})


def test_one_channel_that_may_be_each_channel_s_own_is_not_spread_over_all_unasked():
    file, model = nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3)
    with pytest.raises(tg.PlanRefusedError, match="unless the file's layer has a kernel for each of 8 channels alone"):
        tg.load(model, file.state_dict())
    tg.load(model, file.state_dict(), in_channels={"weight": "repeat"})
    assert torch.allclose(model.weight, file.weight.expand(-1, 8, -1, -1) / 8)
