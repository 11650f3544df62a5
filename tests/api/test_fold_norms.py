"""Batch norms of the file folded into the model's layers: the outputs stay equal."""

from itertools import permutations

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Action, Certainty


def moved(model):
    """The model in evaluation, its norms away from their start."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def agree(model, old, x):
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), old(x), rtol=1e-4, atol=1e-4)
    return True


class Named(nn.Module):
    """Two convolutions and a linear layer, each with a norm or without; other libraries, other names."""

    def __init__(self, *, norms, bias=False, eps=1e-5, names=("conv", "bn"), affine=True):
        super().__init__()
        layer, norm = names
        self.names, self.norms = names, norms
        for n, (a, b) in enumerate([(3, 6), (6, 4)], 1):
            self.add_module(f"{layer}{n}", nn.Conv2d(a, b, 3, bias=bias or not norms))
            if norms:
                self.add_module(f"{norm}{n}", nn.BatchNorm2d(b, eps=eps, affine=affine))
        self.fc = nn.Linear(4, 5, bias=bias or not norms)
        if norms:
            self.last = nn.BatchNorm1d(5, eps=eps, affine=affine)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        layer, norm = self.names
        for n in (1, 2):
            x = getattr(self, f"{layer}{n}")(x)
            x = getattr(self, f"{norm}{n}")(x) if self.norms else x
            x = x.relu()
        x = self.fc(x.mean((2, 3)))
        return self.head(self.last(x) if self.norms else x)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("names", [("conv", "bn"), ("stage", "norm")])
def test_outputs_are_equal(bias, affine, names):
    torch.manual_seed(0)
    old = moved(Named(norms=True, bias=bias, affine=affine))
    model = Named(norms=False, names=names)
    report = tg.load(model, old.state_dict(), fold_norms=True)
    assert agree(model, old, torch.randn(2, 3, 8, 8))
    step = report.plan.by_name["fc.weight"]
    assert (step.action, step.certainty) == (Action.ADAPT, Certainty.LIKELY)
    assert "norm last folded, eps 1e-05 assumed" in step.why.text
    assert [u.spec.name for u in report.plan.unused if not u.quiet] == []
    assert len(report.plan.unused) == 3
    assert "norm folded into the weight, eps 1e-05" in str(report)


def test_eps_can_be_told_and_makes_it_certain():
    torch.manual_seed(0)
    old, model = moved(Named(norms=True, eps=0.1)), Named(norms=False)
    report = tg.load(model, old.state_dict(), fold_norms=0.1, accept="certain")
    assert agree(model, old, torch.randn(2, 3, 8, 8))
    assert report.plan.by_name["conv1.bias"].why.text.endswith("norm bn1 folded, eps 0.1")
    with pytest.raises(tg.PlanRefusedError, match="assumed"):
        tg.load(Named(norms=False), old.state_dict(), fold_norms=True, accept="certain")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_sequence_whose_numbers_shift(wrapped):
    torch.manual_seed(0)
    old = moved(nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(),
        nn.Conv1d(6, 2, 1),
    ))  # fmt: skip
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.ConvTranspose1d(4, 6, 3), nn.ReLU(), nn.Conv1d(6, 2, 1))
    given_ = {f"module.{k}" if wrapped else k: v for k, v in old.state_dict().items()}
    tg.load(model, given_, fold_norms=True)
    assert agree(model, old, torch.randn(2, 3, 9))


def test_norms_that_the_model_has_stay_norms():
    torch.manual_seed(0)
    old = moved(Named(norms=True))
    model = Named(norms=True)
    model.conv1, model.bn1 = nn.Conv2d(3, 6, 3), nn.Identity()
    report = tg.load(model, old.state_dict(), fold_norms=True)
    assert agree(model, old, torch.randn(2, 3, 8, 8))
    assert report.plan.by_name["bn2.weight"].action is Action.COPY


def test_a_whole_resnet():
    torch.manual_seed(0)
    old = moved(torchvision.models.resnet18(num_classes=7))
    model = torchvision.models.resnet18(num_classes=7)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))
        if isinstance(module, nn.BatchNorm2d):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, nn.Identity())
    report = tg.load(model, old.state_dict(), fold_norms=True)
    assert agree(model, old, torch.randn(1, 3, 64, 64))
    assert not report.plan.fresh


def test_a_file_sorted_by_name_goes_by_names():
    torch.manual_seed(0)
    old, model = moved(Named(norms=True)), Named(norms=False)
    given_ = {k: v for k, v in sorted(old.state_dict().items()) if not k.startswith("last")}
    model.head, old.head, old.last = nn.Linear(5, 2), nn.Linear(5, 2).eval(), nn.Identity()
    given_ |= {"head.weight": old.head.weight.detach(), "head.bias": old.head.bias.detach()}
    report = tg.load(model, dict(sorted(given_.items())), fold_norms=1e-5, fresh=["fc.bias"])
    model.fc.bias.data.zero_()
    assert agree(model, old, torch.randn(2, 3, 8, 8))
    assert report.plan.by_name["conv2.weight"].certainty is Certainty.LIKELY


def test_a_layer_without_a_bias_is_refused_by_name():
    old, model = moved(Named(norms=True)), Named(norms=False)
    model.conv2 = nn.Conv2d(6, 4, 3, bias=False)
    with pytest.raises(tg.UsageError, match="norm bn2 of the file can't be folded into conv2: that has no bias"):
        tg.plan(model, old.state_dict(), fold_norms=True)


def test_nothing_to_fold_is_refused():
    with pytest.raises(tg.UsageError, match="no batch norm behind a layer that the model lacks"):
        tg.plan(Named(norms=True), Named(norms=True).state_dict(), fold_norms=True)


def test_what_stands_between_layer_and_norm_keeps_them_apart():
    old = moved(nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.BatchNorm1d(4)))
    with pytest.raises(tg.UsageError, match="no batch norm behind a layer"):
        tg.plan(nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU()), old.state_dict(), fold_norms=True)


def test_a_norm_before_its_layer_is_not_folded_into_it():
    """The first norm of a pre-activation block has no layer before it."""

    class Pre(nn.Module):
        def __init__(self, *, folded):
            super().__init__()
            self.norm1 = nn.BatchNorm1d(4)
            self.conv1 = nn.Conv1d(4, 4, 1, bias=folded)
            if not folded:
                self.norm2 = nn.BatchNorm1d(4)
            self.conv2 = nn.Conv1d(4, 4, 1)

        def forward(self, x):
            x = self.conv1(self.norm1(x).relu())
            x = self.norm2(x) if hasattr(self, "norm2") else x
            return self.conv2(x.relu())

    torch.manual_seed(0)
    old, model = moved(Pre(folded=False)), Pre(folded=True)
    tg.load(model, old.state_dict(), fold_norms=True)
    assert agree(model, old, torch.randn(2, 4, 5))


def test_dropped_layers_and_their_norms_are_unused_by_name():
    torch.manual_seed(0)
    old = moved(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 5), nn.BatchNorm1d(5)))
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    plan = tg.plan(model, old.state_dict(), fold_norms=True)
    lost = {u.spec.name for u in plan.unused if not u.quiet}
    assert lost == {f"3.{r}" for r in ("weight", "bias")} | {
        f"4.{r}" for r in ("weight", "bias", "running_mean", "running_var")
    }
    fates = [u.spec.name for u in plan.unused] + [f.key for s in plan.steps for f in s.feeds]
    assert set(fates) == set(plan.source_specs) == set(old.state_dict())


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(st.lists(st.tuples(st.integers(2, 5), st.booleans(), st.booleans()), min_size=1, max_size=4), st.integers(0, 99))
def test_any_sequence_folds(layers, seed):
    """Random widths, biases, and norms here and there (at least one)."""
    torch.manual_seed(seed)
    layers[0] = (layers[0][0], layers[0][1], True)
    old, new, width = [], [], 3
    for out, bias, norm in layers:
        old += [nn.Linear(width, out, bias=bias), *([nn.BatchNorm1d(out)] if norm else []), nn.ReLU()]
        new += [nn.Linear(width, out, bias=bias or norm), nn.ReLU()]
        width = out
    old, new = moved(nn.Sequential(*old)), nn.Sequential(*new)
    report = tg.load(new, old.state_dict(), fold_norms=True, on_doubt="take")
    assert not report.plan.fresh
    assert agree(new, old, torch.randn(4, 3))


@pytest.mark.parametrize("model", [nn.Linear(4, 3), nn.BatchNorm1d(3)])
def test_a_layer_that_is_the_whole_model_has_no_norm_behind_it(model):
    with pytest.raises(tg.UsageError, match="no batch norm behind a layer"):
        tg.plan(model, model.state_dict(), fold_norms=True)


class LayersFirst(nn.Module):
    """Convolutions that are registered one after the other, and then their norms, as PointNet has them."""

    def __init__(self, *, norms, bias=True):
        super().__init__()
        self.convs = [nn.Conv2d(a, 4, 1, bias=bias or not norms) for a in (3, 4, 4)]
        self.norms = [nn.BatchNorm2d(4) for _ in range(3)] if norms else [nn.Identity()] * 3
        for name, layers in (("conv", self.convs), ("bn", self.norms if norms else [])):
            for n, layer in enumerate(layers, 1):
                self.add_module(f"{name}{n}", layer)

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x)).relu()
        return x


@pytest.mark.parametrize("bias", [True, False])
def test_norms_behind_all_layers_belong_to_those_of_their_number(bias):
    """The first norm stands right behind the last layer."""
    torch.manual_seed(0)
    old, model = moved(LayersFirst(norms=True, bias=bias)), LayersFirst(norms=False)
    report = tg.load(model, old.state_dict(), fold_norms=1e-5)
    assert agree(model, old, torch.randn(2, 3, 4, 4))
    assert report.plan.by_name["conv3.weight"].certainty is Certainty.LIKELY


class PreActivation(nn.Sequential):
    """Norms before layers of their number, as in DenseNet: norm2 is behind conv1."""

    def __init__(self, *, norms):
        super().__init__()
        self.add_module("norm1", nn.BatchNorm2d(3))
        self.add_module("conv1", nn.Conv2d(3, 4, 1))
        self.add_module("norm2", nn.BatchNorm2d(4) if norms else nn.Identity())
        self.add_module("conv2", nn.Conv2d(4, 4, 1))


def test_a_norm_before_the_layer_of_its_number_belongs_to_the_one_before():
    torch.manual_seed(0)
    old, model = moved(PreActivation(norms=True)), PreActivation(norms=False)
    tg.load(model, old.state_dict(), fold_norms=True)
    assert agree(model, old, torch.randn(2, 3, 4, 4))


class Crossed(nn.Module):
    """Two layers and their norms, registered in the order given; each norm is behind the layer of its name."""

    def __init__(self, names, *, norms=True):
        super().__init__()
        for name in names:
            if name.startswith("layer"):
                self.add_module(name, nn.Conv1d(4, 4, 1))
            elif norms:
                self.add_module(name, nn.BatchNorm1d(4))

    def forward(self, x):
        for end in ("a", "b"):
            x = getattr(self, f"layer_{end}")(x)
            x = (getattr(self, f"norm_{end}")(x) if hasattr(self, f"norm_{end}") else x).relu()
        return x


@pytest.mark.parametrize("is_sorted", [False, True])
@pytest.mark.parametrize("names", list(permutations(("layer_a", "layer_b", "norm_a", "norm_b"))), ids="-".join)
def test_words_tell_the_layer_before_a_norm_or_the_load_is_refused(names, is_sorted):
    torch.manual_seed(0)
    old, model = moved(Crossed(names)), Crossed(names, norms=False)
    state = dict(sorted(old.state_dict().items())) if is_sorted else old.state_dict()
    told = is_sorted or all(names.index(f"layer_{end}") < names.index(f"norm_{end}") for end in ("a", "b"))
    if told:
        tg.load(model, state, fold_norms=True)
        assert agree(model, old, torch.randn(2, 4, 5))
    else:
        with pytest.raises((tg.UsageError, tg.PlanRefusedError)):
            tg.load(model, state, fold_norms=True)


def test_norms_before_their_layers_are_known_by_their_channels_where_the_order_is_lost():
    """Each has as many channels as its layer has inputs: names would fold it into that one."""
    state = dict(sorted(moved(PreActivation(norms=True)).state_dict().items()))
    with pytest.raises(tg.UsageError, match="neither order nor names tell"):
        tg.plan(PreActivation(norms=False), state, fold_norms=True)
