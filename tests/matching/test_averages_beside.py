"""Averaged weights beside live ones in one state dict: the live ones are loaded, whatever either is called."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.matching.names.undotted import restored


def net(classes: int = 3) -> nn.ModuleDict:
    layers = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 8))
    return nn.ModuleDict({"table": nn.Embedding(5, 4), "layers": layers, "out": nn.Linear(8, classes)})


def trained(joint: str, *, everything: bool = True) -> dict[str, torch.Tensor]:
    """A module that was saved with its average, whose names have lost their dots."""
    live = {f"net.{name}": torch.rand_like(value) for name, value in net().state_dict().items()}
    kept = live if everything else {name: live[name] for name in live if "layers" not in name}
    average = {
        "model_ema." + name.removeprefix("net.").replace(".", joint): torch.rand_like(value)
        for name, value in live.items()
    }
    return {**kept, **average, "model_ema.decay": torch.tensor(0.9)}


@pytest.mark.parametrize("joint", ["", "_"])
@pytest.mark.parametrize("wrapper", ["", "module", "trunk"])
def test_live_weights_come_first_however_the_model_is_wrapped(joint: str, wrapper: str) -> None:
    file, model = trained(joint), net()
    report = tg.load(nn.ModuleDict({wrapper: model}) if wrapper else model, file)
    assert all(torch.equal(value, file[f"net.{name}"]) for name, value in model.state_dict().items())
    assert {unused.spec.name for unused in report.plan.unused} == {key for key in file if key.startswith("model_ema.")}
    assert "prefer='ema' takes them" in str(report)


def test_the_averages_are_taken_where_they_are_preferred() -> None:
    file, model = trained(""), net()
    tg.load(nn.ModuleDict({"module": model}), file, prefer="ema")
    assert torch.equal(model["out"].weight, file["model_ema.outweight"])


def test_an_average_fills_no_layer_that_the_live_weights_do_not_have() -> None:
    file = trained("")
    model = nn.ModuleDict({**net(), "scale": nn.LayerNorm(6), "more": nn.Linear(4, 6)})
    report = tg.load(model, file)
    assert not [f.key for step in report.plan.steps for f in step.feeds if "ema" in f.key]


def test_averages_of_what_the_file_lacks_otherwise_are_loaded() -> None:
    file, model = trained("", everything=False), net()
    plan = tg.plan(model, file, on_doubt="take")
    fed = {step.slot.name: step.feeds[0].key for step in plan.steps if step.feeds}
    assert fed["layers.0.weight"] == "model_ema.layers0weight"
    assert fed["out.weight"] == "net.out.weight"


def test_a_model_that_keeps_its_average_gets_it() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.ema = net(), net()

    file = {name: torch.rand_like(value) for name, value in Both().state_dict().items()}
    model = Both()
    tg.load(model, file)
    assert all(torch.equal(value, file[name]) for name, value in model.state_dict().items())


def test_a_raw_tensor_of_another_spelling_does_not_give_way_to_its_average() -> None:
    model = nn.ModuleDict({"body": nn.Linear(4, 6), "head": nn.Linear(6, 5)})
    live = {name.replace("head.", "head_"): torch.rand_like(value) for name, value in model.state_dict().items()}
    file = {"net." + name: value for name, value in live.items()}
    file |= {"model_ema." + name.replace(".", ""): torch.rand_like(value) for name, value in live.items()}
    tg.load(model, file)
    assert torch.equal(model["head"].weight, file["net.head_weight"])


class Normed(nn.Module):
    """Has buffers that no average of parameters holds."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        for tensor in (*self.parameters(), self.bn.running_mean, self.bn.running_var):
            nn.init.constant_(tensor, value)


@pytest.mark.parametrize("wrapper", ["", "module."])
@pytest.mark.parametrize("name", ["ema", "state_dict_ema"])
def test_buffers_that_averages_lack_come_from_the_live_weights_beside_them(name: str, wrapper: str) -> None:
    """`{"model": ..., "ema": ...}` with averages of the parameters only: their statistics would stay at their start."""
    live, average, model = Normed(2.0), Normed(3.0), Normed(0.0)
    file = {
        "model": {wrapper + key: value for key, value in live.state_dict().items()},
        name: {wrapper + key: value for key, value in average.named_parameters()},
    }
    report = tg.load(model, file | {"epoch": 1}, prefer="ema")
    assert torch.equal(model.conv.weight, average.conv.weight)
    assert torch.equal(model.bn.weight, average.bn.weight)
    assert torch.equal(model.bn.running_mean, live.bn.running_mean)
    assert not report.plan.fresh
    assert {unused.why.text for unused in report.plan.unused} == {"outside of what prefer='ema' takes"}
    assert any("lack buffers" in note for note in report.plan.notes)


def test_averages_with_buffers_of_their_own_stand_alone() -> None:
    live, average, model = Normed(2.0), Normed(3.0), Normed(0.0)
    report = tg.load(model, {"model": live.state_dict(), "ema": average.state_dict()}, prefer="ema")
    assert torch.equal(model.bn.running_mean, average.bn.running_mean)
    assert report.plan.network == "ema"
    assert not report.plan.unused


def test_what_has_fewer_layers_than_the_live_part_is_no_average_of_it() -> None:
    def deep(blocks: int) -> nn.ModuleDict:
        layers = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)) for _ in range(blocks))
        return nn.ModuleDict({"stem": nn.Linear(3, 6), "layers": layers})

    file = nn.ModuleDict({"net": deep(4), "model_ema": deep(2)}).state_dict()
    with pytest.raises(tg.PlanRefusedError, match="several networks in the file fit equally"):
        tg.load(deep(2), file)
    assert not tg.plan(deep(4), file).refusals


@pytest.mark.parametrize("other", ["a.bc", "abc"])
def test_names_that_become_one_without_their_dots_are_left_out(other: str) -> None:
    names = ["ab.c", other, "d.e", "f.g"]
    assert restored(["netabc", "netde", "netfg"], names) == {"netde": "d.e", "netfg": "f.g"}
