"""A model's own code may print, leave, fail or lie in any file: stdout, exit code and result stay ours."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from torchgraft.cli import cli
from torchgraft.cli.output import watched

MODULE = """
from torch import nn
print("imported")

class Net(nn.Sequential):
    def __init__(self):
        print("built")
        super().__init__(nn.Linear(4, {width}))

class Leaves(Net):
    def __init__(self):
        raise SystemExit(0)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, width in (("one", 2), ("two", 3)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "nets.py").write_text(MODULE.format(width=width))
        torch.save(nn.Sequential(nn.Linear(4, width)).state_dict(), tmp_path / f"{name}.pt")
    (tmp_path / "fails_at_import.py").write_text("raise RuntimeError('no\\nway')")
    (tmp_path / "leaves_at_import.py").write_text("raise SystemExit(0)")
    (tmp_path / "no_python.py").write_text("def (:")
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(cli, [str(a) for a in arguments])


def test_what_a_model_prints_goes_to_stderr(folder):
    result = run("plan", "one.pt", "--model", "one/nets.py:Net", "--json")
    assert json.loads(result.stdout)["kind"] == "plan"
    assert result.stderr == "imported\nbuilt\n"
    result = run("load", "one.pt", "--model", "one/nets.py:Net", "-o", "out.pt")
    assert result.stdout.startswith("loaded all 2 tensors")
    assert "built" in result.stderr


def test_two_files_of_one_name_are_two_models(folder):
    for name in ("one", "two"):
        result = run("plan", f"{name}.pt", "--model", f"{name}/nets.py:Net", "--strict")
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("one/nets.py:Leaves", "one/nets.py:Leaves raised SystemExit: 0"),
        ("leaves_at_import:Net", "importing leaves_at_import raised SystemExit: 0"),
        ("fails_at_import:Net", r"importing fails_at_import raised RuntimeError: no\nway"),
        ("no_python.py:Net", "importing no_python.py raised SyntaxError"),
        ("nosuch.py:Net", "there is no file nosuch.py"),
        ("one/nets.py", "one/nets.py is Python code: name the callable in it, too, as in one/nets.py:build"),
        ("nets", "'nets' is no file and no callable: give module:callable"),
        ("", "'' is no file and no callable"),
    ],
)
def test_code_that_fails_or_leaves_is_an_argument_that_makes_no_sense(folder, model, said):
    result = run("load", "one.pt", "--model", model, "-o", "out.pt")
    assert result.exit_code == 2
    assert said in result.stderr.splitlines()[-1]
    assert not (folder / "out.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "one.pt", "--model", "two.pt", "-o", "one.pt"], "-o one.pt is read by this very command"),
        (["plan", "one.pt", "--model", "two.pt", "--html", "./two.pt"], "--html ./two.pt is read by this very command"),
        (["plan", "one.pt", "--model", "two.pt", "-o", "x", "--html", "./x"], "-o and --html name the same file"),
        (["load", "one.pt", "--model", "two.pt", "-o", "x.pt", "--html", "x.pt"], "-o and --html name the same file"),
        (["load", "one.pt", "--model", "two.pt", "-o", "one.pt"], "-o one.pt is read by this very command"),
        (["plan", "one.pt", "--model", "one/nets.py:Net", "-o", "one/nets.py"], "-o one/nets.py is read by this"),
        (["plan", "one.pt", "--model", "one.nets:Net", "--html", "one/nets.py"], "--html one/nets.py is read by this"),
        (
            ["plan", "one.pt", "--model", "two.pt", "--set", "@wishes.json", "-o", "wishes.json"],
            "-o wishes.json is read",
        ),
        (["plan", "one.pt", "--model", "two.pt", "--input", "x.pt", "--html", "x.pt"], "--html x.pt is read"),
    ],
)
def test_nothing_that_is_read_is_written_over(folder, arguments, said):
    (folder / "wishes.json").write_text('{"strict": true}')
    torch.save({"x": torch.ones(1, 4)}, folder / "x.pt")
    before = {path: path.read_bytes() for path in folder.rglob("*.*")}
    result = run(*arguments)
    assert (result.exit_code, said in result.stderr) == (2, True)
    assert {path: path.read_bytes() for path in folder.rglob("*.*")} == before


def test_a_traceback_of_the_code_is_shown_when_asked_for(folder, monkeypatch):
    arguments = ["load", "one.pt", "--model", "fails_at_import:Net", "-o", "out.pt"]
    assert "Traceback" not in run(*arguments).stderr
    monkeypatch.setenv("TORCHGRAFT_TRACEBACK", "1")
    result = run(*arguments)
    assert result.exit_code == 2
    assert 'fails_at_import.py", line 1' in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: --model fails_at_import:Net: importing")


def test_messages_of_code_name_the_option_that_named_it(folder):
    arguments = ["--source-model", "one/nets.py:Leaves", "-o", "out.pt"]
    result = run("load", "one.pt", "--model", "one/nets.py:Net", *arguments)
    assert result.exit_code == 2
    assert "--source-model one/nets.py:Leaves raised SystemExit" in result.stderr


def test_shards_that_are_read_are_not_written_over(folder):
    assert run("convert", "two.pt", "parts.safetensors", "--shard-size", "50").exit_code == 0
    parts = sorted(folder.glob("parts-*.safetensors"))
    assert len(parts) == 2
    for read in ("parts.safetensors.index.json", folder):
        result = run("load", read, "--model", "two/nets.py:Net", "-o", parts[0])
        assert (result.exit_code, "is read by this very command" in result.stderr) == (2, True)


@pytest.mark.parametrize("command", [["convert"], ["load", "--model", "two/nets.py:Net", "-o"]])
def test_a_shard_that_is_read_is_not_cleared_away_as_an_old_one(folder, command):
    assert run("convert", "two.pt", "parts.safetensors", "--shard-size", "50").exit_code == 0
    before = {path: path.read_bytes() for path in folder.glob("parts*")}
    first = min(folder.glob("parts-*"))
    result = run(command[0], first, *command[1:], "parts.safetensors", "--shard-size", "50")
    assert (result.exit_code, "is read, and may be replaced by shards of" in result.stderr) == (2, True)
    assert {path: path.read_bytes() for path in folder.glob("parts*")} == before


def test_inputs_without_elements_prove_nothing(folder):
    model = "one/nets.py:Net"
    result = run("verify", "one.pt", "--model", model, "--source-model", model, "--input", "0x4")
    assert (result.exit_code, "an input without elements shows nothing" in result.stderr) == (2, True)


def test_a_stream_that_is_closed_is_no_terminal():
    assert not watched(None)
