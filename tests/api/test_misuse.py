"""What is given in the wrong place, or made for another model, is said in a sentence that tells the right way."""

import pickle
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import torchgraft as tg


def net(width=4, classes=2):
    return nn.Sequential(nn.Linear(width, 4), nn.BatchNorm1d(4), nn.Linear(4, classes))


@pytest.fixture(scope="module")
def report():
    return tg.load(net(), net())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda _: tg.load(net().state_dict(), net()), "load() takes the model first"),
        (lambda _: tg.load("net.pt", net()), "load() takes the model first"),
        (
            lambda _: tg.load(torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),)), "net.pt"),
            "an ExportedProgram can't be filled: give an nn.Module",
        ),
        (lambda _: tg.load({}, "net.pt"), "a dict can't be filled: give an nn.Module"),
        (
            lambda _: tg.load(nn.Linear, {}),
            "the class Linear can't be filled: give an nn.Module, which Linear(...) makes",
        ),
        (lambda _: tg.load(net(), net().parameters()), "checkpoint is a generator; a path"),
        (lambda _: tg.load(net(), net().parameters()), "give dict(model.named_parameters()), or model.state_dict()"),
        (lambda _: tg.plan(net(), net().named_parameters()), "give dict(model.named_parameters()), or"),
        (lambda _: tg.plan(net(), net().state_dict().items()), "accepted; give the dictionary itself"),
        (lambda _: tg.plan(net(), ["a.safetensors", Path("b.safetensors")]), "give the folder, or the index.json"),
        (lambda _: tg.plan(net(), list(net().state_dict().items())), "of pairs of names and tensors give dict(pairs)"),
        (lambda report: tg.diff(report, net()), "checkpoint is a Report; a path"),
        (lambda _: tg.plan(net(), 3), "checkpoint is an int; a path"),
        (lambda _: tg.build(net(), {}), "factory is a Sequential: give a function or class"),
        (lambda _: tg.save_model(net(), "net.pt"), "save_model takes the path first"),
        (lambda _: tg.save({}, "net.pt"), "save takes the path first"),
        (lambda report: tg.freeze(report, net()), "give the model first, then the report"),
        (lambda report: tg.param_groups(report, net(), lr=1), "give the model first, then the report"),
        (lambda report: tg.freeze(nn.Sequential(nn.Linear(3, 3)), report), "the report is of another model"),
        (
            lambda report: tg.param_groups(nn.Sequential(nn.Linear(3, 3)), report, lr=1),
            "the report is of another model",
        ),
        (lambda report: tg.param_groups(nn.ModuleDict({"body": net()}), report, lr=1), "not a wrapper around it"),
    ],
)
def test_the_right_way_is_told(call, said, report):
    with pytest.raises(tg.UsageError) as caught:
        call(report)
    assert said in str(caught.value)


def test_a_head_that_was_replaced_after_loading_counts_as_fresh(report):
    model = net(classes=9)
    fresh = {g["name"]: g["names"] for g in tg.param_groups(model, report, lr=1)}["fresh"]
    assert fresh == ["2.weight", "2.bias"]


@pytest.mark.parametrize("name", ["gpt2", "org/some-model.v2"])
def test_names_of_models_on_a_hub_are_not_looked_up(name):
    with pytest.raises(tg.CheckpointError, match=r"download it first, and give its folder"):
        tg.inspect(name)


@pytest.mark.parametrize("name", ["weights.pt", "runs/last.pth", "runs/model.weights.h5", "a/b/c", "/nowhere/model"])
def test_other_missing_files_are_just_missing(name):
    with pytest.raises(tg.MissingFileError, match=r"no such file or folder$"):
        tg.inspect(name)


def test_a_missing_path_is_what_python_calls_it(tmp_path):
    path = tmp_path / "last.pt"
    for call in (tg.inspect, tg.read_plan, tg.Learned.read, partial(tg.load, net()), partial(tg.diff, net())):
        with pytest.raises(FileNotFoundError, match=r"last\.pt: no such file") as caught:
            call(path)
        assert isinstance(caught.value, tg.CorruptCheckpointError)  # with what is there in part
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_checkpoint_that_lacks_a_part_is_not_missing(tmp_path):
    tg.save(tmp_path / "big.safetensors", {f"w{n}": torch.full((100,), float(n)) for n in range(6)}, shard_size=500)
    (tmp_path / "big-00002-of-00006.safetensors").unlink()
    with pytest.raises(tg.CorruptCheckpointError) as caught:
        tg.inspect(tmp_path / "big.safetensors.index.json")
    assert not isinstance(caught.value, FileNotFoundError)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_script_module_is_filled_and_left_as_any_other():
    source = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.jit.script(net(classes=5))
    report = tg.load(model, source.state_dict())
    assert [step.slot.name for step in report.plan.fresh] == ["2.weight", "2.bias"]
    assert torch.equal(model.state_dict()["0.weight"], source[0].weight)
    tg.freeze(model, report)
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2
    with pytest.raises(tg.PlanRefusedError):
        tg.load(model, {"0.weight": torch.full((4, 4), float("nan"))})
    assert torch.equal(model.state_dict()["0.weight"], source[0].weight)
