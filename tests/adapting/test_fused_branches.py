"""Parallel branches of a block become the one convolution that computes the same."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


class Branches(nn.Module):
    """A training block of RepVGG (Ding et al. 2021): 3x3 and 1x1 convolutions and an identity, each with its norm."""

    def __init__(self, channels, groups, *, identity, bias):
        super().__init__()
        self.dense = nn.Sequential()
        self.dense.add_module("conv", nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=bias))
        self.dense.add_module("bn", nn.BatchNorm2d(channels))
        self.point = nn.Sequential()
        self.point.add_module("conv", nn.Conv2d(channels, channels, 1, groups=groups, bias=bias))
        self.point.add_module("bn", nn.BatchNorm2d(channels))
        self.identity = nn.BatchNorm2d(channels) if identity else None

    def forward(self, x):
        out = self.dense(x) + self.point(x)
        return out if self.identity is None else out + self.identity(x)


class Fused(nn.Module):
    def __init__(self, channels, groups):
        super().__init__()
        self.reparam = nn.Conv2d(channels, channels, 3, padding=1, groups=groups)

    def forward(self, x):
        return self.reparam(x)


def trained(channels, groups, **kinds):
    file = nn.ModuleDict({"stage": Branches(channels, groups, **kinds), "head": nn.Conv2d(channels, 5, 1)})
    for module in file.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return file.eval()


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("identity", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_fused_convolution_computes_the_same(groups, identity, bias):
    file = trained(4, groups, identity=identity, bias=bias)
    model = nn.ModuleDict({"stage": Fused(4, groups), "head": nn.Conv2d(4, 5, 1)}).eval()
    report = tg.load(model, file, fuse_branches=True)
    x = torch.randn(2, 4, 6, 6)
    expected = file["head"](file["stage"](x))
    assert torch.allclose(model["head"](model["stage"](x)), expected, atol=1e-5)
    assert f"{3 if identity else 2} branches of stage fused" in str(report)


def test_nothing_is_fused_unasked():
    file = trained(4, 1, identity=True, bias=False)
    model = nn.ModuleDict({"stage": Fused(4, 1), "head": nn.Conv2d(4, 5, 1)})
    plan = tg.plan(model, file)
    assert all(step.why.rule != "fused branches" for step in plan.steps)


def test_kernels_without_a_middle_are_no_branches_of_one_block():
    source = nn.ModuleDict({"part": nn.ModuleDict({"a": nn.Conv2d(3, 4, 4), "b": nn.Conv2d(3, 4, 4)})}).state_dict()
    target = nn.ModuleDict({"part": nn.ModuleDict({"one": nn.Conv2d(3, 4, 4)})})
    with pytest.raises(tg.UsageError, match="has no parallel branches"):
        tg.load(target, source, fuse_branches=True)


def test_layers_behind_each_other_are_no_branches():
    """Two convolutions of a squeeze and excitation, 8 to 2 channels and back, add up to nothing."""

    def net(*names):
        layers = dict(zip(names, (nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)), strict=True))
        return nn.ModuleDict({"conv": nn.Conv2d(8, 8, 3), "se": nn.ModuleDict(layers)})

    plan = tg.plan(net("conv_reduce", "conv_expand"), net("0", "2").state_dict())
    assert not any("parallel branches" in step.why.doubt for step in plan.steps)
    with pytest.raises(tg.UsageError, match="no parallel branches"):
        tg.plan(net("conv_reduce", "conv_expand"), net("0", "2").state_dict(), fuse_branches=True)


def two_kernels(names, sizes):
    blocks = [
        nn.ModuleDict({name: nn.Conv2d(8, 8, size) for name, size in zip(names, sizes, strict=True)}) for _ in range(3)
    ]
    return nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "blocks": nn.ModuleList(blocks)})


def test_layers_that_both_sides_have_are_no_branches():
    file, model = two_kernels(("expand", "project"), (3, 1)), two_kernels(("first", "second"), (1, 3))
    plan = tg.plan(model, file.state_dict())
    assert {step.why.doubted_by for step in plan.doubtful} == {"kernels_crosswise"}
    assert len(plan.doubtful) == 12
    in_order = two_kernels(("first", "second"), (3, 1))
    assert tg.plan(in_order, file.state_dict()).refusals == ()


class Flat(nn.Module):
    """Branches whose layers and norms lie side by side, registered in the order of their names as given."""

    def __init__(self, *names):
        super().__init__()
        for name in names:
            kind = name.partition("_")[0]
            layer = nn.BatchNorm2d(4) if kind == "norm" else nn.Conv2d(4, 4, int(kind[-1]), padding="same", bias=False)
            self.add_module(name, layer)

    def forward(self, x):
        convs = [name for name, _ in self.named_children() if name.startswith("conv")]
        out = [getattr(self, f"norm_{name.partition('_')[2]}")(getattr(self, name)(x)) for name in convs]
        return sum(out) + self.norm_skip(x)


def flat(*names):
    file = nn.ModuleDict({"stage": Flat(*names), "head": nn.Conv2d(4, 5, 1)})
    for norm in (module for module in file.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight, 1, 0.2)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return file.eval()


@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("norm_skip", "conv3_wide", "norm_wide", "conv1_point", "norm_point"),
        ("conv3_wide", "conv1_point", "norm_skip", "norm_wide", "norm_point"),
        ("conv1_point", "norm_point", "conv3_wide", "norm_wide", "norm_skip"),
    ],
)
def test_norms_side_by_side_go_with_the_layers_of_their_names(names, is_sorted):
    torch.manual_seed(0)
    file = flat(*names)
    model = nn.ModuleDict({"stage": Fused(4, 1), "head": nn.Conv2d(4, 5, 1)}).eval()
    state = file.state_dict()
    report = tg.load(model, dict(sorted(state.items())) if is_sorted else state, fuse_branches=True)
    x = torch.randn(2, 4, 6, 6)
    assert torch.allclose(model["stage"](x), file["stage"](x), atol=1e-5)
    assert report.plan.by_name["stage.reparam.weight"].certainty is Certainty.LIKELY


def test_norms_that_nothing_tells_apart_are_in_doubt():
    names = {"conv3_a": "left", "conv1_b": "right", "norm_skip": "x", "norm_a": "y", "norm_b": "z"}
    state = flat("conv3_a", "conv1_b", "norm_skip", "norm_a", "norm_b").state_dict()
    for old, new in names.items():
        state = {key.replace(f".{old}.", f".{new}."): value for key, value in state.items()}
    model = nn.ModuleDict({"stage": Fused(4, 1), "head": nn.Conv2d(4, 5, 1)})
    step = tg.plan(model, state, fuse_branches=True).by_name["stage.reparam.weight"]
    assert (step.certainty, step.why.doubted_by) == (Certainty.DOUBT, "norms_of_branches")


def test_the_eps_of_norms_can_be_told_and_makes_it_certain():
    file = trained(4, 1, identity=True, bias=False)
    for norm in (module for module in file.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.eps = 1e-2
    model = nn.ModuleDict({"stage": Fused(4, 1), "head": nn.Conv2d(4, 5, 1)}).eval()
    report = tg.load(model, file, fuse_branches=1e-2)
    x = torch.randn(2, 4, 6, 6)
    assert torch.allclose(model["stage"](x), file["stage"](x), atol=1e-5)
    assert report.plan.by_name["stage.reparam.weight"].certainty is Certainty.CERTAIN
    assert "norm eps 0.01" in str(report)
    assert "assumed" not in str(report)
