"""A transposed convolution keeps [in, out, ...]: where its kernel is square, only the kinds of both layers tell that it turns."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def among(layer):
    """Return a network with a layer in its middle."""
    return nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "mid": layer, "head": nn.Linear(8, 5)})


def plain(layer):
    return layer.weight.detach().reshape(8, 8)


@pytest.mark.parametrize("other", [nn.Linear(8, 8), nn.Conv2d(8, 8, 1), nn.Conv1d(8, 8, 1)])
@pytest.mark.parametrize("back", [False, True])
def test_a_kernel_of_one_position_is_turned(other, back):
    sides = [among(nn.ConvTranspose2d(8, 8, 1)), among(other)]
    file, model = sides[::-1] if back else sides
    tg.load(model, file.state_dict(), source_model=file)
    assert torch.equal(plain(model["mid"]), plain(file["mid"]).T)


def test_a_matrix_is_no_transposed_convolution_s_also_where_nothing_is_known_of_its_layer():
    file, model = among(nn.Linear(8, 8)), among(nn.ConvTranspose2d(8, 8, 1))
    tg.load(model, file.state_dict())
    assert torch.equal(plain(model["mid"]), plain(file["mid"]).T)


@pytest.mark.parametrize("back", [False, True])
def test_a_larger_kernel_is_doubt(back):
    sides = [among(nn.ConvTranspose2d(8, 8, 3)), among(nn.Conv2d(8, 8, 3))]
    file, model = sides[::-1] if back else sides
    with pytest.raises(tg.PlanRefusedError, match="one layer is a transposed convolution"):
        tg.load(model, file.state_dict(), source_model=file)


@pytest.mark.parametrize("kernel", [2, 4])
def test_a_kernel_that_gains_a_depth_is_doubt_since_strides_say_what_adds_up(kernel):
    file, model = nn.ConvTranspose2d(4, 5, kernel, stride=2), nn.ConvTranspose3d(4, 5, kernel, stride=2)
    with pytest.raises(tg.PlanRefusedError, match=f"inflated over {kernel} steps .* stride"):
        tg.load(model, file.state_dict())


def test_what_lies_along_its_axes_is_told_the_other_way_round():
    file, model = nn.ConvTranspose2d(2, 3, 2), nn.ConvTranspose2d(2, 3, 2)
    names = tg.AxisNames(source=["a", "b", "c"], target=["c", "b", "a"], dim=1)
    plan = tg.plan(model, file.state_dict(), axis_names={"weight": names}, fresh=["bias"])
    assert "output channels follow 3 shared names" in plan.by_slot["weight"].why.text
