"""Every trainable parameter in exactly one group, with the rate that its fate and depth call for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from tuning_models import Net, fate_lists, made, nets

from torchgraft.core.errors import UsageError
from torchgraft.tuning import freeze, loaded_masks, param_groups
from torchgraft.tuning.groups import depths


@settings(max_examples=25, deadline=None)
@given(nets, fate_lists, st.sampled_from((None, 0.5)), st.sampled_from((0.0, 0.1)), st.randoms())
def test_each_trainable_parameter_once(model, fates, decay, weight_decay, random):
    plan = made(fates, model)
    for parameter in model.parameters():
        parameter.requires_grad_(random.random() < 0.7)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trained:
        with pytest.raises(UsageError, match="nothing to train"):
            param_groups(model, plan, lr=0.1)
        return
    groups = param_groups(model, plan, lr=0.1, fresh_lr=1.0, layer_decay=decay, weight_decay=weight_decay)
    assert sorted(n for g in groups for n in g["names"]) == sorted(trained)
    assert all(trained[n] is p for g in groups for n, p in zip(g["names"], g["params"], strict=True))
    assert len({g["name"] for g in groups}) == len(groups)
    torch.optim.AdamW(groups)
    for group in groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (weight_decay if parameter.ndim > 1 else 0.0)


def test_rates_follow_fate():
    model = Net(2)
    groups = param_groups(model, made(["fresh", "adapted", "loaded"], model), lr=0.1, fresh_lr=1.0, adapted_lr=0.5)
    assert {g["name"]: g["lr"] for g in groups} == {"fresh": 1.0, "adapted": 0.5, "loaded": 0.1}


def test_layer_decay_falls_off_towards_the_input():
    model = Net(2)
    groups = param_groups(model, made(["loaded"], model), lr=1.0, layer_decay=0.5)
    rates = {n: g["lr"] for g in groups for n in g["names"]}
    assert rates["head.weight"] == 1.0
    assert rates["blocks.1.fc1.weight"] == 0.5
    assert rates["blocks.0.fc1.weight"] == 0.25
    assert rates["stem.weight"] == rates["token"] == 0.125


def test_depths_by_names_in_registration_order():
    names = [
        "cls_token",
        "conv.weight",
        "enc.0.w",
        "enc.0.b",
        "enc.1.w",
        "mid.w",
        "dec.0.1.w",
        "dec.1.w",
        "norm.w",
        "head.w",
    ]
    assert depths(names) == (0, 0, 1, 1, 2, 3, 4, 5, 6, 6)
    assert depths(["0.weight", "0.bias", "2.weight"]) == (1, 1, 2)
    assert depths([]) == ()


def test_the_models_own_word_on_weight_decay_counts():
    model = Net(1)
    model.no_weight_decay = lambda: {"token"}
    groups = param_groups(model, made(["loaded"], model), lr=0.1, weight_decay=0.1)
    decays = {n: g["weight_decay"] for g in groups for n in g["names"]}
    assert decays["token"] == 0.0
    assert decays["stem.weight"] == 0.1
    groups = param_groups(model, made(["loaded"], model), lr=0.1, weight_decay=0.1, no_decay_norm_bias=False)
    assert {g["weight_decay"] for g in groups} == {0.1}


def test_so_does_that_of_a_part_of_the_model_or_of_what_is_compiled():
    inner = Net(1)
    inner.no_weight_decay = lambda: {"token"}
    for model, path in (
        (torch.nn.Sequential(inner, torch.nn.Linear(4, 2)), "0"),
        (torch.compile(inner, backend="eager"), "_orig_mod"),
    ):
        groups = param_groups(model, made(["loaded"], model), lr=0.1, weight_decay=0.1)
        decays = {n: g["weight_decay"] for g in groups for n in g["names"]}
        assert decays[f"{path}.token"] == 0.0
        assert decays[f"{path}.stem.weight"] == 0.1


def test_a_head_put_in_after_loading_is_fresh():
    model = Net(1)
    plan = made(["loaded"], model)
    model.head = torch.nn.Linear(4, 7)
    model.extra = torch.nn.Linear(4, 7)
    freeze(model, plan, patterns=["blocks"])
    names = {g["name"]: g["names"] for g in param_groups(model, plan, lr=0.1)}
    assert names["fresh"] == ["head.weight", "head.bias", "extra.weight", "extra.bias"]
    assert not any("blocks" in n for group in names.values() for n in group)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"lr": -1.0}, "lr=-1.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": "0.1"}, "lr='0.1'"),
        ({"lr": 0.1, "fresh_lr": True}, "fresh_lr=True"),
        ({"lr": 0.1, "layer_decay": 1.5}, "layer_decay=1.5"),
        ({"lr": 0.1, "weight_decay": float("inf")}, "weight_decay=inf"),
    ],
)
def test_rates_that_make_no_sense(asked, said):
    model = Net(1)
    with pytest.raises(UsageError, match=said):
        param_groups(model, made(["loaded"], model), **asked)


@pytest.mark.parametrize("call", [lambda m, r: param_groups(m, r, lr=0.1), loaded_masks])
def test_no_report_is_refused(call):
    with pytest.raises(UsageError, match=r"report is a NoneType: give what load\(\) or plan\(\) returned"):
        call(Net(1), None)


class PreNorm(nn.Module):
    """Not a norm, but what holds one: a wide parameter of its own beside it."""

    def __init__(self):
        super().__init__()
        self.norm, self.mix = nn.LayerNorm((3, 4)), nn.Parameter(torch.randn(4, 4))


def test_norms_over_several_axes_go_without_decay_and_what_is_called_after_them_does_not():
    model = nn.ModuleDict({"block": PreNorm(), "fc": nn.Linear(4, 4)})
    groups = param_groups(model, made(["loaded"], model), lr=0.1, weight_decay=0.1)
    decays = {n: g["weight_decay"] for g in groups for n in g["names"]}
    assert {name for name, decay in decays.items() if decay} == {"block.mix", "fc.weight"}
