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


def mlp():
    return nn.ModuleDict({"fc1": nn.Linear(6, 12), "fc2": nn.Linear(12, 6)})


def test_a_weight_in_two_tensors_is_held_in_its_place():
    def norm():
        return nn.utils.parametrizations.weight_norm(nn.Linear(6, 6))

    saved = net(qf=norm(), critic=norm()).state_dict()
    model = nn.ModuleDict({"net": net(critic=norm(), u=norm())})
    tg.load(model, saved, rename={"qf": "net.critic"}, on_doubt="skip")
    expect_same(model["net"]["critic"], saved, "qf")


def test_what_loses_its_place_by_a_rule_goes_to_another_only_in_doubt():
    saved = net(local_branch=mlp(), dec=mlp()).state_dict()
    model = net(dec=mlp(), part_b=mlp(), local=mlp())
    with pytest.raises(tg.PlanRefusedError, match=r"part_b.* in doubt: what you said gives its place"):
        tg.load(model, saved, fan_out={"dec": ["local", "dec"]})


def test_rules_that_say_what_is_known_anyway_settle_nothing():
    saved = net(part_a=mlp(), bar=mlp(), time=mlp(), enc=mlp()).state_dict()
    model = nn.ModuleDict({"net": net(image=mlp(), bar=mlp(), time=mlp(), enc=mlp())})
    for rules in ({}, {"fresh": ["net.bar"], "rename": {"enc": "net.enc"}}):
        with pytest.raises(tg.PlanRefusedError, match=r"net.image.* in doubt"):
            tg.load(model, saved, **rules)


def block(*, odd=False, norm="norm"):
    more = {"extra": nn.Linear(6, 6)} if odd else {}
    return nn.ModuleDict({norm: nn.LayerNorm(6), "fc1": nn.Linear(6, 12), "fc2": nn.Linear(12, 6), **more})


def test_what_only_another_layer_has_does_not_go_where_layers_puts_a_layer():
    saved = net(layers=nn.ModuleList([block(), block(), block(odd=True)])).state_dict()
    model = net(layers=nn.ModuleList([block(), block(), block(odd=True)]))
    before = model["layers"][2]["extra"].weight.clone()
    tg.load(model, saved, layers={"layers": [1, 2, 1]}, on_doubt="take")
    assert torch.equal(model["layers"][2]["extra"].weight, before)
    expect_same(model["layers"][0]["fc1"], saved, "layers.1.fc1")


def test_layers_behind_those_that_are_picked_stay_as_they_are():
    saved = net(layers=nn.ModuleList([block() for _ in range(3)])).state_dict()
    model = net(layers=nn.ModuleList([block(norm="ln") for _ in range(4)]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tg.load(model, saved, layers={"layers": [1]}, on_doubt="take")
    for number in (1, 2, 3):
        for name, value in model["layers"][number].state_dict().items():
            assert torch.equal(value, before[f"layers.{number}.{name}"])
    expect_same(model["layers"][0]["ln"], saved, "layers.1.norm")


def test_layers_means_also_the_part_of_a_list_that_no_rename_moves():
    saved = {
        f"model.{name}": value for name, value in net(h=nn.ModuleList([block() for _ in range(3)])).state_dict().items()
    }
    model = nn.ModuleDict({"body": net(h=nn.ModuleList([block(norm="ln") for _ in range(2)]))})
    tg.load(model, saved, rename={"model.h.{i}.norm": "body.h.{i}.ln"}, layers={"body.h": [2, 0]}, on_doubt="take")
    for number, picked in enumerate([2, 0]):
        expect_same(model["body"]["h"][number]["ln"], saved, f"model.h.{picked}.norm")
        expect_same(model["body"]["h"][number]["fc2"], saved, f"model.h.{picked}.fc2")


def test_a_name_that_does_not_fit_fits_no_better_where_another_place_is_kept():
    def part():
        return nn.ModuleDict({"conv": nn.Conv2d(6, 6, 3), "bn": nn.BatchNorm2d(6)})

    saved = {f"module.{name}": value for name, value in net(forward_net=part(), tempo=part()).state_dict().items()}
    model = net(q2=part(), tempo=nn.ModuleDict({"net": part()}))
    with pytest.raises(tg.PlanRefusedError, match=r"q2.* in doubt: its shape fits, its name doesn't"):
        tg.load(model, saved, zero=["tempo.net"])
