"""Modules that lie in another one on one side: adapters around layers, a dropout before a head, a whole part boxed."""

import copy

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

WIDTH = 8


def net(classes=5):
    return nn.ModuleDict({
        "stem": nn.Sequential(nn.Conv2d(3, WIDTH, 3), nn.BatchNorm2d(WIDTH)),
        "blocks": nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "fc1": nn.Linear(WIDTH, 20), "fc2": nn.Linear(20, WIDTH)})
            for _ in range(3)
        ),
        "head": nn.Linear(WIDTH, classes),
    })  # fmt: skip


def adapted(layer):
    low = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})
    high = nn.ModuleDict({"default": nn.Linear(2, layer.out_features, bias=False)})
    return nn.ModuleDict({"base_layer": layer, "lora_A": low, "lora_B": high})


def with_adapters(model):
    for block in model["blocks"]:
        block["fc1"], block["fc2"] = adapted(block["fc1"]), adapted(block["fc2"])
    return model


def with_dropout(model):
    model["head"] = nn.Sequential(nn.Dropout(), model["head"])
    return model


def boxed(name):
    def change(model):
        model["stem"] = nn.ModuleDict({name: model["stem"]})
        return model

    change.__name__ = f"boxed_as_{name}"
    return change


def one_block_boxed(model):
    model["blocks"][1] = nn.ModuleDict({"inner": model["blocks"][1]})
    return model


def all_of_it(model):
    return with_adapters(with_dropout(boxed("module")(model)))


CHANGES = [with_adapters, with_dropout, boxed("module"), boxed("0"), one_block_boxed, all_of_it]


def fill(model):
    with torch.no_grad():
        for value in model.state_dict().values():
            value.copy_(torch.rand(value.shape)) if value.is_floating_point() else value.fill_(3)
    return model


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_wrapped_module_keeps_its_weights_both_ways(change, prefix):
    plain = net()
    origin = {id(value): name for name, value in (*plain.named_parameters(), *plain.named_buffers())}
    inner = change(plain)
    names = {
        new: origin[id(value)]
        for new, value in (*inner.named_parameters(), *inner.named_buffers())
        if id(value) in origin
    }
    outer = fill(net())
    file = {prefix + name: value for name, value in outer.state_dict().items()}
    assert {s.slot.name for s in tg.load(inner, file).plan.fresh} == set(inner.state_dict()) - set(names)
    assert all(torch.equal(inner.state_dict()[new], outer.state_dict()[old]) for new, old in names.items())

    file = {prefix + name: value for name, value in fill(copy.deepcopy(inner)).state_dict().items()}
    assert not tg.load(outer, file).plan.fresh
    assert all(torch.equal(outer.state_dict()[old], file[prefix + new]) for new, old in names.items())


@pytest.mark.parametrize("back", [False, True])
def test_a_head_of_several_layers_is_not_the_old_head(back):
    old, new = net(WIDTH), net()
    new["head"] = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 5))
    source, target = (new, old) if back else (old, new)
    plan = tg.plan(target, source.state_dict(), on_doubt="take")
    heads = [s for s in plan.steps if s.slot.name.startswith("head") and s.feeds]
    assert all(s.certainty is Certainty.DOUBT for s in heads)


def test_two_modules_that_the_tensors_could_have_moved_into_are_left_alone():
    source = nn.ModuleDict({"a": nn.Linear(4, 4), "mix": nn.Linear(4, 6)}).state_dict()
    target = nn.ModuleDict({"a": nn.Linear(4, 4), "mix": nn.ModuleDict({"x": nn.Linear(4, 6), "y": nn.Linear(4, 6)})})
    plan = tg.plan(target, source, on_doubt="take")
    assert all(s.certainty is not Certainty.CERTAIN for s in plan.steps if "mix" in s.slot.name and s.feeds)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_layer_that_is_found_by_its_name_stays_where_a_new_one_was_put_into_it(prefix):
    file = nn.ModuleDict({"fc": nn.Linear(WIDTH, WIDTH), "out": nn.Linear(WIDTH, WIDTH)})
    inside = copy.deepcopy(file)
    inside["fc"].add_module("extra", nn.Linear(WIDTH, WIDTH))
    plan = tg.plan(nn.ModuleDict({"backbone": inside}) if prefix else inside, file.state_dict())
    assert {step.slot.name: step.feeds[0].key for step in plan.copied} == {
        prefix + key: key for key in file.state_dict()
    }
    assert {step.slot.name for step in plan.fresh} == {f"{prefix}fc.extra.weight", f"{prefix}fc.extra.bias"}


def wrapped_by_torch(model):
    """Return the model with what torch puts around modules, at every depth: one wrapper for each part, and one in another."""
    model["stem"] = nn.ModuleDict({"_orig_mod": model["stem"]})
    for at, block in enumerate(model["blocks"]):
        block["fc1"] = nn.ModuleDict({"_fsdp_wrapped_module": block["fc1"]})
        model["blocks"][at] = nn.ModuleDict(
            {"_fsdp_wrapped_module": nn.ModuleDict({"_checkpoint_wrapped_module": block})}
        )
    model["head"] = nn.ModuleDict({"_fsdp_wrapped_module": model["head"]})
    return model


@pytest.mark.parametrize("around", ["", "module.", "model._orig_mod."])
def test_what_torch_puts_around_modules_is_set_aside_wherever_it_stands(around):
    source = net()
    state = source.state_dict()
    wrapped = wrapped_by_torch(copy.deepcopy(source)).state_dict()
    plain = net()
    report = tg.load(plain, {around + name: value for name, value in wrapped.items()})
    assert not report.plan.fresh
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    target = wrapped_by_torch(net())
    tg.load(target, {around + name: value for name, value in state.items()})
    assert all(torch.equal(value, wrapped[name]) for name, value in target.state_dict().items())
