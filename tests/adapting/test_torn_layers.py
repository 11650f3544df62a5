"""A bias goes over with the weight of its layer, or its name says that the layer is the same."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def tower(*stem):
    return nn.ModuleDict({
        "stem": nn.Sequential(*stem), "bn": nn.BatchNorm2d(8), "layer": nn.Conv2d(8, 8, 3), "fc": nn.Linear(8, 4),
    })  # fmt: skip


@pytest.mark.parametrize("kernel", [5, 7])
def test_a_stem_in_several_layers_takes_no_bias_of_the_one_that_it_replaces(kernel):
    saved = tower(nn.Conv2d(3, 8, kernel)).state_dict()
    model = tower(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3))
    before = {name: value.clone() for name, value in model["stem"].state_dict().items()}
    report = tg.load(model, saved)
    assert all(torch.equal(value, before[name]) for name, value in model["stem"].state_dict().items())
    assert {"stem.0.weight", "stem.0.bias"} <= {u.spec.name for u in report.plan.unused}
    assert "stem.4.bias [8]: the weight of the layer that it belongs to does not fit" in str(report)
    assert torch.equal(model["layer"].bias, saved["layer.bias"])


def test_a_bias_under_its_own_name_goes_over():
    saved, model = tower(nn.Conv2d(3, 8, 7)).state_dict(), tower(nn.Conv2d(3, 8, 3))
    tg.load(model, saved)
    assert torch.equal(model["stem"][0].bias, saved["stem.0.bias"])


def separable(inner, outer):
    """A convolution in two: one channel at a time, and then all of them."""
    return nn.Sequential(nn.Conv2d(inner, inner, 3, groups=inner, bias=False), nn.Conv2d(inner, outer, 1))


@pytest.mark.parametrize("split", [0, 1, 2])
def test_a_layer_of_a_list_that_became_two_gives_its_bias_to_neither(split):
    def net(split=None):
        sizes = enumerate(((3, 6), (6, 8), (8, 9)))
        layers = [separable(*size) if at == split else nn.Conv2d(*size, 3) for at, size in sizes]
        return nn.ModuleDict({"body": nn.Sequential(*layers), "fc": nn.Linear(9, 4)})

    plan = tg.plan(net(split), net().state_dict())
    assert {f"body.{split}.weight", f"body.{split}.bias"} == {u.spec.name for u in plan.unused}
    assert len(plan.fresh) == 3


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
@pytest.mark.parametrize("back", [False, True])
def test_a_norm_and_a_linear_layer_under_one_name_exchange_no_bias(norm, back):
    def net(layer):
        return nn.ModuleDict({"body": nn.Sequential(nn.Linear(4, 6), layer), "fc": nn.Linear(6, 3)})

    sides = net(norm(6)), net(nn.Linear(6, 6))
    file, model = reversed(sides) if back else sides
    plan = tg.plan(model, file.state_dict())
    assert {slot for slot, step in plan.by_slot.items() if step.feeds} == {
        "body.0.weight", "body.0.bias", "fc.weight", "fc.bias"
    }  # fmt: skip


@pytest.mark.parametrize("bare", [False, True])
def test_a_kernel_whose_bias_has_another_size_is_in_doubt(bare):
    """A transposed convolution has the sizes of a convolution the other way round, and a linear layer those of its transpose."""

    def net(layer):
        return nn.ModuleDict({"stem": nn.Linear(3, 5), "up": layer, "fc": nn.Linear(6, 3)})

    if bare:
        file, model = net(nn.Linear(4, 6)), net(nn.Conv1d(6, 4, 1))
    else:
        file, model = net(nn.Conv2d(4, 6, 3)), net(nn.ConvTranspose2d(6, 4, 3))
    plan = tg.plan(model, file.state_dict())
    assert {step.slot.name for step in plan.doubtful} == {"up.weight"}
    assert "its bias does not fit" in str(plan)
