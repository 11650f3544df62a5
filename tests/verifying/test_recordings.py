"""Runs recorded in one process stand for the source in another."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from faulty_models import Speech, randomised

import torchgraft as tg
from torchgraft.core.errors import UsageError
from torchgraft.proofs import read_golden

HERE = Path(__file__).parent


@pytest.fixture
def recorded(tmp_path):
    model = randomised(Speech())
    inputs = torch.randn(2, 8, 24)
    path = tmp_path / "runs.safetensors"
    tg.record(model, inputs, path)
    return model, inputs, path


def test_what_was_recorded_is_read_back(recorded):
    model, inputs, path = recorded
    again = tg.record(model, inputs, path.with_name("again.safetensors"))
    read = read_golden(path)
    assert torch.equal(read.inputs[0], inputs)
    with torch.no_grad():  # as it was recorded: with gradients, some processors take other kernels
        assert torch.equal(read.runs[0].outputs["output"], model(inputs))
    assert read.runs[0].recording == again.runs[0].recording


def test_a_model_is_verified_without_its_source(recorded):
    model, _, path = recorded
    assert tg.verify(model, golden=path).passed
    model.act.negative_slope = 0.5
    found = tg.verify(model, golden=path)
    assert (found.divergence.target.module, found.causes[0].kind) == ("act", "activation")
    model.act.negative_slope = 0.1
    with torch.no_grad():
        model.conv2.weight[3, 2, 1] += 1
    found = tg.verify(model, golden=path)
    assert (
        found.divergence.target.weights == ("conv2.bias", "conv2.weight") or found.divergence.target.module == "conv2"
    )


@pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
def test_a_tolerance_that_makes_no_sense_is_refused(recorded, tolerance):
    model, inputs, path = recorded
    for given in ({"golden": path}, {"source_model": model, "inputs": inputs}):
        with pytest.raises(UsageError, match=r"tolerance=.*: use a number of at least 0"):
            tg.verify(model, **given, tolerance=tolerance)


def test_another_process_records(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch, torchgraft as tg;"
        "from faulty_models import Speech, randomised;"
        "model = randomised(Speech()); torch.save(model.state_dict(), 'speech.pt');"
        "tg.record(model, [torch.randn(2, 8, 24), (torch.randn(1, 8, 16),)], 'runs.safetensors')"
    )
    subprocess.run([sys.executable, "-c", code, str(HERE)], check=True, cwd=tmp_path)
    model = Speech()
    report = tg.load(model, tmp_path / "speech.pt")
    found = tg.verify(model, golden=tmp_path / "runs.safetensors", plan=report)
    assert found.passed
    assert found.inputs == 2


def test_nested_inputs_and_plain_values(tmp_path):
    class Net(torch.nn.Module):
        def forward(self, x, scale=1.0, parts=()):
            return {"sum": x * scale + sum(parts)}

    given = {"x": torch.ones(2, 3), "scale": 2.0, "parts": (torch.ones(3), torch.ones(2, 1))}
    tg.record(Net(), given, tmp_path / "runs.safetensors")
    assert tg.verify(Net(), golden=tmp_path / "runs.safetensors").passed


def test_a_callable_is_given_again(recorded, tmp_path):
    model, inputs, _ = recorded
    path = tmp_path / "called.safetensors"
    tg.record(model, lambda net: net(inputs).softmax(-1), path)
    with pytest.raises(tg.UsageError, match="recorded as callables"):
        tg.verify(model, golden=path)
    assert tg.verify(model, golden=path, inputs=lambda net: net(inputs).softmax(-1)).passed


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "needs source_model="),
        ({"golden": "runs.safetensors", "source_model": Speech()}, "give one of them"),
        ({"golden": "runs.safetensors", "inputs": [1, 2]}, "2 inputs, and 1 recorded runs"),
        ({"golden": "runs.safetensors", "mode": "train"}, "use one of 'eval', 'as is'"),
    ],
)
def test_what_makes_no_sense_is_said(recorded, monkeypatch, asked, said):
    model, _, path = recorded
    monkeypatch.chdir(path.parent)
    with pytest.raises(tg.UsageError, match=said):
        tg.verify(model, **asked)


def test_another_file_is_no_recording(recorded, tmp_path):
    model, _, _ = recorded
    tg.save_model(tmp_path / "model.safetensors", model)
    with pytest.raises(tg.UnsupportedCheckpointError, match="no recorded runs"):
        tg.verify(model, golden=tmp_path / "model.safetensors")
    with pytest.raises(tg.UsageError, match="fails on input 0"):
        tg.record(model, torch.randn(3), tmp_path / "never.safetensors")
    assert not (tmp_path / "never.safetensors").exists()


def negate(tensor):
    tensor.neg_()


def one_more(tensor):
    tensor.view(-1)[3] += 0.5


@pytest.mark.parametrize("name", ["conv2.weight", "norm1.bias", "key.weight"])
@pytest.mark.parametrize("change", [negate, one_more, torch.nn.init.zeros_])
def test_a_tensor_that_holds_other_values_than_were_recorded_is_the_cause(recorded, name, change):
    source, _, path = recorded
    model = Speech().eval()
    report = tg.load(model, source, on_doubt="take")
    right = tg.verify(model, golden=path, plan=report)
    assert right.passed
    assert not right.causes
    with torch.no_grad():
        change(model.get_parameter(name))
    found = tg.verify(model, golden=path, plan=report)
    assert [(cause.kind, cause.target, cause.source) for cause in found.causes] == [("value", name, name)], str(found)


def test_a_cast_is_no_other_value(recorded):
    source, inputs, path = recorded
    model = Speech().eval()
    report = tg.load(model, source, on_doubt="take")
    model.act.negative_slope = 0.5
    found = tg.verify(model.bfloat16(), golden=path, inputs=inputs.bfloat16(), plan=report)
    assert not any(cause.kind == "value" for cause in found.causes), str(found)


def transpose(tensor):
    tensor.copy_(tensor.t().clone())


def shuffle(tensor):
    tensor.copy_(tensor.flip(0).clone())


@pytest.mark.parametrize(
    ("change", "said", "remedy"),
    [
        (transpose, "key.weight holds the transpose of key.weight", "load with permute={'key.weight': [1, 0]}"),
        (shuffle, "key.weight holds the values of key.weight in another order", "load again by the plan"),
    ],
)
def test_the_same_values_in_another_order_are_the_cause(recorded, change, said, remedy):
    source, _, path = recorded
    model = Speech().eval()
    report = tg.load(model, source, on_doubt="take")
    with torch.no_grad():
        change(model.key.weight)
    found = tg.verify(model, golden=path, plan=report)
    assert [cause.target for cause in found.causes] == ["key.weight"]
    assert found.causes[0].text.startswith(said)
    assert found.causes[0].remedy.startswith(remedy)


def test_a_file_that_holds_a_square_weight_transposed_is_loaded_as_the_cause_says(tmp_path):
    source = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    tg.record(source, torch.randn(4, 5), tmp_path / "runs.safetensors")
    state = source.state_dict()
    model = torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    turned = {**state, "0.weight": state["0.weight"].t().contiguous()}
    report = tg.load(model, turned)
    found = tg.verify(model, golden=tmp_path / "runs.safetensors", plan=report)
    assert found.causes[0].remedy == "load with permute={'0.weight': [1, 0]}"
    report = tg.load(model, turned, permute={"0.weight": [1, 0]})
    assert tg.verify(model, golden=tmp_path / "runs.safetensors", plan=report).passed
