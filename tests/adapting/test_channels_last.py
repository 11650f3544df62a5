"""Files of frameworks that keep channels last: flattened maps, transposed convolutions, depthwise kernels."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


class Net(nn.Module):
    """Two convolutions, a layer behind their flattened maps, and another."""

    def __init__(self, *, channels=6, side=4, last=False):
        super().__init__()
        self.last = last
        self.conv1, self.conv2 = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.fc1, self.fc2 = nn.Linear(channels * side * side, 18), nn.Linear(18, 2)

    def forward(self, x):
        x = self.norm(self.conv2(self.conv1(x)))
        x = x.permute(0, 2, 3, 1) if self.last else x
        return self.fc2(self.fc1(x.flatten(1)))


def stored(net, *, linear_turned=True):
    """Return the weights as Keras keeps them, or with linear layers as torch has them and kernels as MLX does."""
    out = {}
    for name, value in net.state_dict().items():
        kernel = value
        if name == "fc1.weight" and not net.last:
            rows, channels = len(value), net.conv2.out_channels
            kernel = value.reshape(rows, channels, -1).transpose(1, 2).reshape(rows, -1)
        if value.ndim == 4:
            kernel = value.permute(2, 3, 1, 0) if linear_turned else value.permute(0, 2, 3, 1)
        elif value.ndim == 2 and linear_turned:
            kernel = kernel.T
        renamed = name.replace("weight", "kernel") if linear_turned and value.ndim > 1 else name
        out[renamed] = kernel.contiguous()
    return out


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("side", [2, 4])
def test_columns_for_flattened_maps_are_put_channel_by_channel_and_no_more_than_a_doubt(turned, side):
    old, new = Net(side=side), Net(side=side)
    file = stored(old, linear_turned=turned)
    with pytest.raises(tg.PlanRefusedError, match="columns for flattened maps go position by position"):
        tg.load(new, file)
    plan = tg.load(new, file, on_doubt="take").plan
    x = torch.randn(2, 3, side, side)
    assert torch.allclose(new.eval()(x), old.eval()(x), atol=1e-5)
    assert [s.slot.name for s in plan.doubtful] == ["fc1.weight"]


def test_a_model_that_moves_channels_last_itself_keeps_the_columns_as_the_caller_says():
    old, new = Net(last=True), Net(last=True)
    tg.load(new, stored(old), permute={"fc1.weight": [1, 0]})
    assert torch.equal(new.fc1.weight, old.fc1.weight)


def test_files_with_channels_first_and_layers_behind_pooled_maps_stay_certain():
    assert not tg.plan(Net(), Net().state_dict()).doubtful
    assert not tg.plan(Net(side=1), stored(Net(side=1))).doubtful


def decoder(*widths):
    return nn.Sequential(nn.Conv2d(3, widths[0], 3), *(nn.ConvTranspose2d(a, b, 2) for a, b in pairwise(widths)))


@pytest.mark.parametrize(("widths", "certain"), [((8, 8, 8), False), ((8, 8, 6), True)])
def test_square_kernels_of_transposed_convolutions_follow_those_that_show_their_order_or_are_in_doubt(widths, certain):
    old = decoder(*widths)
    file = {k: v.permute(2, 3, 1, 0).contiguous() if v.ndim == 4 else v for k, v in old.state_dict().items()}
    plan = tg.plan(decoder(*widths), file)
    assert (plan.by_slot["1.weight"].certainty is Certainty.CERTAIN) == certain
    assert "turns it round" in plan.by_slot["1.weight"].why.text or certain


@pytest.mark.parametrize("each", [1, 2])
def test_depthwise_kernels_of_tensorflow_are_taken_for_grouped_convolutions(each):
    old, new = (nn.ModuleDict({"dw": nn.Conv2d(8, 8 * each, 3, groups=8), "pw": nn.Conv2d(3, 8, 1)}) for _ in range(2))
    file = {"pw.kernel": old["pw"].weight.permute(2, 3, 1, 0), "pw.bias": old["pw"].bias, "dw.bias": old["dw"].bias}
    file["dw.depthwise_kernel"] = old["dw"].weight.reshape(8, each, 3, 3).permute(2, 3, 0, 1)
    tg.load(new, {k: v.detach() for k, v in file.items()})
    assert torch.equal(new["dw"].weight, old["dw"].weight)


@pytest.mark.parametrize("named", ["{}.{}", "{}/{}:0"])
def test_biases_of_kernels_without_a_place_show_where_outputs_stand(named):
    """A kernel of as many inputs as outputs as positions fits in any order."""
    model = nn.ModuleDict({"first": nn.Conv2d(3, 3, 3)})
    file = {"first": torch.randn(3, 3, 3, 3), "second": torch.randn(3, 3, 3, 5)}
    state = {named.format(name, "kernel"): kernel for name, kernel in file.items()}
    state |= {named.format("first", "bias"): torch.randn(3), named.format("second", "bias"): torch.randn(5)}
    tg.load(model, state, policy=tg.Policy(coverage=tg.Verdict.WARN))
    assert torch.equal(model["first"].weight, file["first"].permute(3, 2, 0, 1))
    state[named.format("second", "kernel")] = torch.randn(5, 3, 3, 3)
    tg.load(model, state, policy=tg.Policy(coverage=tg.Verdict.WARN))
    assert torch.equal(model["first"].weight, file["first"])


def as_kernels(model):
    """Return the weights of convolutions as TensorFlow keeps them."""
    orders = {3: (2, 1, 0), 4: (2, 3, 1, 0)}
    return {
        key.replace("weight", "kernel"): v.permute(orders.get(v.dim(), tuple(range(v.dim())))).contiguous()
        for key, v in model.state_dict().items()
    }


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 3, 3), nn.Conv1d(5, 5, 5), nn.Conv1d(7, 5, 5)])
def test_a_kernel_that_fits_in_several_orders_goes_by_what_it_is_called(layer):
    old, new = nn.ModuleDict({"a": layer}), nn.ModuleDict({"a": copy.deepcopy(layer)})
    report = tg.load(new, {key: value + 1 for key, value in as_kernels(old).items()})
    torch.testing.assert_close(new["a"].weight, old["a"].weight + 1)
    assert report.plan.by_slot["a.weight"].certainty is Certainty.LIKELY


def test_a_kernel_called_w_that_fits_in_several_orders_is_in_doubt():
    plan = tg.plan(nn.ModuleDict({"a": nn.Conv2d(3, 3, 3)}), {"a.w": torch.ones(3, 3, 3, 3), "a.b": torch.ones(3)})
    assert plan.doubtful[0].why.text.endswith("(as in Haiku) or its first")


@pytest.mark.parametrize("name", ["weight", "kernel"])
def test_kernels_of_fewer_axes_are_in_the_order_of_those_of_more(name):
    def made():
        return nn.ModuleDict({"a": nn.Conv1d(4, 6, 3), "b": nn.Conv2d(4, 6, 3), "c": nn.Conv2d(3, 3, 3)})

    old, new = made(), made()
    tg.load(new, {key.replace("kernel", name): value for key, value in as_kernels(old).items()})
    assert all(torch.equal(new[key].weight, old[key].weight) for key in "abc")


def test_a_depthwise_kernel_of_three_colours_tells_nothing_of_other_kernels():
    """[3, 3, 3, 1] has the sizes of [out, height, width, in] as well."""
    old, new = (nn.ModuleDict({"dw": nn.Conv2d(3, 3, 3, groups=3, bias=False), "c": nn.Conv2d(3, 3, 3)}) for _ in "ab")
    file = as_kernels(old) | {"dw.depthwise_kernel": old["dw"].weight.permute(2, 3, 0, 1).contiguous()}
    del file["dw.kernel"]
    tg.load(new, file)
    assert all(torch.equal(new[key].weight, old[key].weight) for key in ("dw", "c"))


def test_a_kernel_beside_others_in_two_orders_is_in_doubt():
    model = nn.ModuleDict({"a": nn.Conv2d(4, 6, 3), "b": nn.Conv2d(4, 6, 3), "c": nn.Conv2d(3, 3, 3)})
    file = model.state_dict()
    file |= {"a.weight": torch.ones(3, 3, 4, 6), "b.weight": torch.ones(6, 3, 3, 4)}
    assert "several orders" in tg.plan(model, file).doubtful[0].why.text
