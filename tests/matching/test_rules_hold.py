"""What the caller says of a place holds, whatever else could fill it; and it moves nothing that he says nothing of."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg


def net(**parts):
    around = {"stem": nn.Linear(3, 6), **parts, "out": nn.Linear(6, 7)}
    return filled(nn.ModuleDict(around))


def cell():
    return nn.LSTMCell(6, 6)


def expect_same(module, saved, path):
    for name, value in module.state_dict().items():
        assert torch.equal(value, saved[f"{path}.{name}"])


@pytest.mark.parametrize(
    "rules", [{"fan_out": {"text": ["net.visual", "net.critic"]}}, {"rename": {"text": "net.critic"}}]
)
def test_a_tensor_that_a_prefix_would_lead_there_does_not_take_the_place(rules):
    saved = net(text=cell(), critic=cell()).state_dict()
    model = nn.ModuleDict({"net": net(visual=cell(), critic=cell())})
    report = tg.load(model, saved, on_doubt="skip", **rules)
    expect_same(model["net"]["critic"], saved, "text")
    assert "critic.weight_ih" in {unused.spec.name for unused in report.plan.unused}


@pytest.mark.parametrize("option", ["fresh", "zero"])
def test_what_is_called_as_a_place_that_is_kept_goes_nowhere_else(option):
    saved = {f"module.{name}": value for name, value in net(scale=cell(), critic=cell()).state_dict().items()}
    model = net(critic=cell(), scale=cell())
    before = model["critic"].weight_ih.clone()
    report = tg.load(model, saved, rename={"module.critic": "nowhere"}, **{option: ["scale"]})
    assert torch.equal(model["critic"].weight_ih, before)
    assert {"module.scale.weight_ih", "module.critic.weight_ih"} <= {one.spec.name for one in report.plan.unused}


def test_a_place_that_starts_by_a_rule_keeps_its_tensor_from_others():
    saved = {f"module.{name}": value for name, value in net(scale=nn.Linear(6, 6)).state_dict().items()}
    model = net(scale=nn.Linear(6, 6), other=nn.Linear(6, 6))
    before = model["other"].weight.clone()
    tg.load(model, saved, init={"scale": "zero"})
    assert torch.equal(model["other"].weight, before)
