"""`torchgraft verify` runs both models, says where they part, and ends with a documented code."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import torchgraft as tg
from torchgraft.cli import cli

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, eps=1e-5, classes=3):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, eps=eps)
        self.head = nn.Linear(8, classes)

    def forward(self, image):
        return self.head(self.norm(self.conv(image)).relu().mean((2, 3)))

def words():
    return nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 2))
"""


@pytest.fixture
def run(monkeypatch, tmp_path):
    (tmp_path / "verify_nets.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    import verify_nets

    torch.manual_seed(0)
    source = verify_nets.Net()
    source.norm.running_var.fill_(0.01)
    torch.save(source.state_dict(), "net.pt")
    torch.save(verify_nets.words().state_dict(), "words.pt")
    torch.save({"image": torch.randn(2, 3, 8, 8)}, "image.pt")

    def call(*arguments):
        return CliRunner().invoke(cli, ["verify", *arguments])

    yield call
    import sys

    del sys.modules["verify_nets"]


def test_equal_models_end_with_zero(run):
    done = run("net.pt", "--model", "verify_nets:Net", "--source-model", "verify_nets:Net", "--input", "1x3x8x8")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("equal on 1 input")


def test_a_source_that_the_file_does_not_fill_is_none(run):
    both = ("--model", "verify_nets:Net", "--source-model", "verify_nets:Net", "--input", "1x3x8x8")
    done = run("net.pt", *both, "--source-kwargs", '{"classes": 4}')
    assert done.exit_code == 2
    assert "--source-model verify_nets:Net: net.pt doesn't fill head.{weight,bias} of it" in done.output


@pytest.mark.parametrize("given", ["image=2x3x8x8", "image.pt"])
def test_a_difference_ends_with_ten_and_says_why(run, given):
    done = run(
        "net.pt", "--model", "verify_nets:Net", "--kwargs", '{"eps": 0.01}', "--source-model", "verify_nets:Net",
        "--input", given, "--json",
    )  # fmt: skip
    assert done.exit_code == 10, done.output
    data = json.loads(done.stdout)
    assert data["schema"] == "torchgraft.verification/1"
    assert data["divergence"]["target"]["module"] == "norm"
    assert (data["causes"][0]["kind"], data["causes"][0]["target"]) == ("setting", 0.01)


def test_inputs_may_be_guessed(run):
    done = run("net.pt", "--model", "verify_nets:Net", "--source-model", "verify_nets:Net", "--input", "guess")
    assert done.exit_code == 0, done.output
    assert "run on inputs that were guessed: [2, 3, 32, 32]" in done.stdout


def test_whole_numbers(run):
    done = run("words.pt", "--model", "verify_nets:words", "--source-model", "verify_nets:words", "--input", "2x5:0-19")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--input", "nothing.pt"], "neither a file nor a shape"),
        (["--input", "2x5:9-3"], "is empty"),
        (["--input", "image=1x3x8x8", "--input", "1x3x8x8"], "to all inputs or to none"),
        (["--input", "1x5x8x8"], "the source's model fails on input 0"),
        (["--input", "1x3x8x8", "--source-kwargs", "[1]"], "use a JSON object"),
    ],
)
def test_what_makes_no_sense_is_said(run, given, said):
    done = run("net.pt", "--model", "verify_nets:Net", "--source-model", "verify_nets:Net", *given)
    assert done.exit_code == tg.UsageError.exit_code
    assert said in done.stderr


def test_a_checkpoint_is_no_model_to_run(run):
    done = run("net.pt", "--model", "net.pt", "--source-model", "verify_nets:Net", "--input", "1x3x8x8")
    assert done.exit_code == tg.UsageError.exit_code
    assert "no layers to look at or to run" in done.stderr


def test_both_codes_are_documented():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    assert "| 10 |" in page


@pytest.mark.parametrize("prefix", ["module.", "net.backbone."])
def test_values_are_compared_where_the_file_has_a_prefix_that_the_source_model_lacks(run, prefix):
    import verify_nets

    state = {prefix + name: tensor for name, tensor in torch.load("net.pt").items()}
    torch.save({"state_dict": state}, "wrapped.pt")
    done = run("wrapped.pt", "--model", "verify_nets:Net", "--source-model", "verify_nets:Net", "--input", "1x3x8x8")
    assert done.exit_code == 0, done.output
    assert "proved, as a whole: all 9 tensors placed" in done.stdout
    assert "not compared" not in done.stdout
    source, model = verify_nets.Net().eval(), verify_nets.Net().eval()
    tg.load(source, "wrapped.pt")
    report = tg.load(model, "wrapped.pt")
    with torch.no_grad():
        model.head.weight[0, 0] += 1
    found = tg.verify(model, source, torch.randn(1, 3, 8, 8), plan=report)
    assert found.causes[0].kind == "value"
    assert found.causes[0].text.startswith("head.weight differs from its planned values in 1 of 24 elements")
