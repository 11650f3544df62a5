"""The command line does what the library does, and every failure is one line and a documented code."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from toy_models import Net

import torchgraft
from torchgraft.cli import cli
from torchgraft.core import errors

HERE = str(Path(__file__).parent)


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(HERE)

    def call(*arguments):
        return CliRunner().invoke(cli, [str(a) for a in arguments], prog_name="torchgraft")

    return call


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a folder with a pretrained checkpoint, a nested one, and one of the target's layout."""
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    state = Net(1000).state_dict()
    torch.save({"epoch": 3, "state_dict": {"module." + k: v for k, v in state.items()}}, folder / "pre.pth")
    torch.save({"model": state, "ema": {k: v * 2 for k, v in state.items()}}, folder / "ema.pth")
    torchgraft.save(folder / "mine.safetensors", Net(10).state_dict())
    (folder / "broken.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    return folder


def test_inspect(run, files):
    result = run("inspect", files / "pre.pth")
    assert result.exit_code == 0
    assert "11 tensors" in result.stdout.splitlines()[0]
    assert "epoch = 3" in result.stdout
    assert "module.head.{weight,bias} [1000, 8] and [1000] float32 (2)" in result.stdout
    data = json.loads(run("inspect", files / "ema.pth", "--json", "--prefer", "ema").stdout)
    assert data["schema"] == "torchgraft.inspection/1"
    assert data["chosen"] == "ema"
    assert {"model", "ema"} <= {n["path"] for n in data["networks"]}
    assert len(data["tensors"]) == 11


@pytest.mark.parametrize("name", ["pre.pth", "mine.safetensors", "many.safetensors"])
def test_inspection_is_printed_piece_by_piece(run, files, name):
    torchgraft.save(files / "many.safetensors", {f"a.{n}": torch.full((1,), n) for n in range(2500)})
    text = run("inspect", files / name, "--json").stdout
    assert json.loads(text) == json.loads(json.dumps(torchgraft.inspect(files / name).to_dict()))
    assert text.startswith('{\n  "schema": ')


def test_plan_by_callable_tells_the_causes(run, files, tmp_path):
    page = tmp_path / "plan.html"
    result = run("plan", files / "pre.pth", "--model", "toy_models:Net", "--kwargs", '{"classes": 3}', "--html", page)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("would load 9 of 11 tensors")
    assert "head.{weight,bias} [3, 8] and [3]: 1000 rows in the file, 3 in the model" in result.stdout
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_kept_plan_leads_back_from_the_filled_model(run, files, tmp_path):
    kept = run("plan", files / "pre.pth", "--model", "toy_models:Net", "-o", tmp_path / "plan.json")
    assert kept.stdout.endswith("plan.json, for load --plan\n")
    run("load", files / "pre.pth", "--model", "toy_models:Net", "-o", tmp_path / "mine.pt")
    back = ("convert", tmp_path / "mine.pt", tmp_path / "back.pt", "--inverse")
    result = run(*back, tmp_path / "plan.json")
    assert result.exit_code == 0, result.output
    given = torch.load(files / "pre.pth")["state_dict"]
    found = torch.load(tmp_path / "back.pt")
    assert found
    assert all(torch.equal(value, given[name]) for name, value in found.items())
    assert run(*back, tmp_path / "plan.json", "--learned", "x.json").exit_code == 2
    assert run(*back[:3], "--rest").exit_code == 2


@pytest.mark.parametrize("model", ["toy_models:NoMeta", "toy_models:made", "mine.safetensors"])
def test_plan_takes_models_of_many_kinds(run, files, model):
    named = files / model if model.endswith("safetensors") else model
    result = run("plan", files / "pre.pth", "--model", named, "--json")
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data["tensors"] == {"placed": 9, "total": 11}


def test_a_refused_plan_is_shown_and_ends_with_its_code(run, files):
    result = run("plan", files / "pre.pth", "--model", "toy_models:Net", "--strict")
    assert result.exit_code == errors.PlanRefusedError.exit_code
    assert result.stdout.startswith("refused for")
    result = run("load", files / "pre.pth", "--model", "toy_models:Net", "--strict", "-o", files / "never.pt")
    assert result.exit_code == errors.PlanRefusedError.exit_code
    assert result.stderr.startswith("error: refused")
    assert not (files / "never.pt").exists()


def test_options_reach_the_library(run, files):
    result = run(
        "plan", files / "pre.pth", "--model", "toy_models:Net", "--json", "--rename", "module.head=head", "--fresh", "body.0.*",
        "--on-doubt", "skip", "--min-coverage", "0.01",
    )  # fmt: skip
    slots = {s["name"]: s for s in json.loads(result.stdout)["slots"]}
    assert slots["body.0.weight"]["why"]["text"] == "kept fresh, as you said"


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_load_saves_what_the_library_would(run, files, tmp_path, ending):
    out = tmp_path / f"out.{ending}"
    result = run("load", files / "pre.pth", "--model", files / "mine.safetensors", "-o", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("loaded 9 of 11 tensors")
    model = Net(10)
    torchgraft.load(model, files / "mine.safetensors")
    torchgraft.load(model, files / "pre.pth")
    assert torchgraft.diff(model, out, values=True).equal


def test_load_as_json_keeps_stdout_clean(run, files, tmp_path):
    result = run("load", files / "pre.pth", "--model", "toy_models:Net", "-o", tmp_path / "a.pt", "--json")
    assert json.loads(result.stdout)["kind"] == "report"
    assert "saved 11 tensors" in result.stderr


def test_diff(run, files):
    same = run("diff", files / "pre.pth", files / "pre.pth", "--values", "--exit-code")
    assert same.exit_code == 0
    assert same.stdout.startswith("equal in names, shapes, types and values: ")
    other = run("diff", files / "ema.pth", files / "mine.safetensors", "--exit-code", "--json")
    assert other.exit_code == 1
    assert json.loads(other.stdout)["equal"] is False
    assert run("diff", files / "ema.pth", files / "mine.safetensors").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["inspect", "nowhere.pth"], 3, "nowhere.pth"),
        (["inspect", "@/broken.pth"], 3, "git-lfs"),
        (["plan", "@/pre.pth", "--model", "toy_models:Nett"], 2, "has no attribute 'Nett'"),
        (["plan", "@/pre.pth", "--model", "no_such_module:Net"], 2, "give module:callable"),
        (["plan", "@/pre.pth", "--model", "toy_models:broken"], 2, "raised ValueError: no\\nway"),
        (["plan", "@/pre.pth", "--model", "toy_models:number"], 2, "an nn.Module is needed"),
        (["plan", "@/pre.pth", "--model", "toy_models:Net", "--kwargs", "{"], 2, "no JSON"),
        (["plan", "@/pre.pth", "--model", "toy_models:Net", "--kwargs", "[1]"], 2, "use a JSON object"),
        (["plan", "@/pre.pth", "--model", "@/mine.safetensors", "--kwargs", "{}"], 2, "--kwargs goes with"),
        (["plan", "@/pre.pth", "--model", "toy_models:Net", "--rename", "ab"], 2, "write it as A=B"),
        (["plan", "@/pre.pth", "--model", "toy_models:Net", "--rename", "a=b", "--rename", "a=c"], 2, "given twice"),
        (["plan", "@/ema.pth", "--model", "toy_models:Net", "--prefer", "nix"], 2, "no such network"),
        (["plan", "@/pre.pth", "--model", "toy_models:Net", "--html", "@/no/such/page.html"], 8, "page.html"),
        (["load", "@/pre.pth", "--model", "toy_models:Net", "-o", "@/x.bin2"], 2, "endings"),
        (["load", "@/pre.pth", "--model", "toy_models:Net", "-o", "@/pre.pth"], 2, "choose another file"),
        (["load", "@/pre.pth", "--model", "toy_models:Net", "-o", "@/no/such/x.pt"], 8, "x.pt"),
        (["load", "@/pre.pth", "--model", "toy_models:Net", "-o", ""], 2, "endings"),
        (["plan", "@/pre.pth", "--model", "toy_models:Net", "-o", "@"], 8, "it is a folder; give the path of a file"),
        (["plan", "@/pre.pth", "--model", "toy_models:Net", "-o", ""], 8, "'' can't be written"),
        (["convert", "@/pre.pth", "@", "--to", "dcp"], 2, "written to a new folder"),
        (["inspect", ""], 3, "'': no such file or folder"),
        (["--foo"], 2, "there is no option '--foo'; see torchgraft --help"),
        (["inspct"], 2, "there is no command 'inspct'; did you mean 'inspect'?"),
        (["run"], 2, "there is no command 'run'; there are convert, diff, inspect, load, plan, verify"),
        (["plan"], 2, "CHECKPOINT is missing; see torchgraft plan --help"),
        (["load", "a", "--model", "b"], 2, "--output is missing; see torchgraft load --help"),
        (["plan", "a", "--modl", "b"], 2, "there is no option '--modl'; did you mean '--model'?"),
        (["plan", "a", "b", "--model", "c"], 2, "got unexpected extra argument (b); see torchgraft plan --help"),
        (["plan", "a", "--model"], 2, "option '--model' requires an argument"),
        (["inspect", "a", "--lines", "0"], 2, "--lines: 0 is not in the range x>=1; see torchgraft inspect --help"),
        (["plan", "a", "--model", "b", "--accept", "\x1b[1m"], 2, "--accept: '\\x1b[1m' is not one of"),
    ],
)
def test_failures_are_one_line_and_a_code(run, files, arguments, code, said):
    result = run(*(a.replace("@", str(files)) for a in arguments))
    assert result.stderr.startswith("error: ")
    assert "Usage:" not in result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert result.exit_code == code


@pytest.mark.parametrize("place", ["-o", "--html"])
def test_what_could_not_be_written_is_told_before_the_work(run, files, monkeypatch, place):
    def never(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr("torchgraft.api.load", never)
    given = {"-o": files / "x.pt", "--html": files / "x.html"} | {place: files / "no" / "such.pt"}
    options = [part for pair in given.items() for part in pair]
    result = run("load", files / "pre.pth", "--model", "toy_models:Net", *options)
    assert result.exit_code == errors.WriteError.exit_code
    assert "the folder does not exist (No such file or directory)\n" in result.stderr


def test_a_model_in_a_locked_folder_is_told(run, files, monkeypatch):
    def locked(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", locked)
    monkeypatch.setattr(os, "open", lambda path, *_, **__: locked(path))
    result = run("plan", files / "pre.pth", "--model", "locked/x.pt")
    assert (result.exit_code, result.stderr.endswith("permission denied\n")) == (3, True)


def test_an_unexpected_error_has_no_traceback_unless_asked(run, files, monkeypatch):
    def bug(*_, **__):
        raise KeyError("oops")

    monkeypatch.setattr("torchgraft.inspecting.inspect", bug)
    result = run("inspect", files / "pre.pth")
    assert (result.exit_code, result.stderr) == (1, "error: unexpected KeyError: 'oops'\n")
    monkeypatch.setenv("TORCHGRAFT_TRACEBACK", "1")
    assert isinstance(run("inspect", files / "pre.pth").exception, KeyError)


def test_ctrl_c_ends_as_shells_expect(run, files, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("torchgraft.inspecting.inspect", stopped)
    result = run("inspect", files / "pre.pth")
    assert (result.exit_code, result.stderr) == (130, "error: interrupted\n")


def test_a_terminal_gets_colour_and_a_pipe_does_not(files):
    pty = pytest.importorskip("pty")
    reader, writer = pty.openpty()
    command = [sys.executable, "-m", "torchgraft", "inspect", str(files / "mine.safetensors")]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "60"}
    environment.pop("NO_COLOR", None)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.DEVNULL, env=environment, check=True)
    os.close(writer)
    shown = os.read(reader, 65536).decode()
    os.close(reader)
    assert done.returncode == 0
    assert "\x1b[" in shown
    piped = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"\x1b" not in piped.stdout + piped.stderr


def test_help_needs_no_torch():
    code = "import sys; sys.argv = ['torchgraft', '--help']\nfrom torchgraft.__main__ import main\ntry: main()\nexcept SystemExit: pass\n"
    heavy = "print([m for m in ('torch', 'numpy', 'scipy', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + heavy], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "Exit codes:" in done.stdout


def test_the_page_documents_every_command_option_and_code(run):
    page = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for name, command in cli.commands.items():
        assert f"## torchgraft {name}" in page
        section = page.partition(f"## torchgraft {name}")[2].partition("\n## ")[0]
        if "(#what-is-said-of-a-load)" in section:
            section += page.partition("## What is said of a load")[2].partition("\n## ")[0]
        section += page.partition("Every command takes")[2].partition("\n\n")[0]
        for parameter in command.params:
            assert any(f"`{option}" in section for option in parameter.opts) or parameter.param_type_name == "argument"
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.TorchgraftError):
            assert f"| {kind.exit_code} |" in page


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_full_disk_behind_stdout_is_an_error_of_its_own(files, how):
    command = [sys.executable, "-m", "torchgraft", "inspect", str(files / "mine.safetensors"), *how]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=buffered)
    assert done.returncode == errors.WriteError.exit_code
    assert done.stderr.startswith("error: the result can't be printed: the disk is full")
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
def test_stdout_that_is_closed_from_the_start_is_an_error_as_a_full_disk_is(files):
    command = ["sh", "-c", '"$0" -m torchgraft inspect "$1" >&-', sys.executable, str(files / "mine.safetensors")]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == errors.WriteError.exit_code
    assert done.stderr.startswith("error: the result can't be printed: standard output is closed")


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use can't be removed there")
def test_a_folder_that_is_gone_is_told(files, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd())\nfrom torchgraft.__main__ import main; main()"
    command = [sys.executable, "-c", code, "convert", str(files / "pre.pth"), "x.pt"]
    done = subprocess.run(command, cwd=gone, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "error: the present folder has been removed: change to one that exists\n",
    )


def test_names_beyond_ascii_are_written_where_the_locale_has_no_letters_for_them(tmp_path):
    """Without UTF-8 names come as bytes in disguise, also that of the hidden file beside the new one."""
    code = "import sys\nfrom torchgraft.core.system.commit import write_bytes\nwrite_bytes(sys.argv[1], b'1')"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "ä€.json")], env=environment, check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["ä€.json"]


def test_the_version_is_the_librarys(run):
    assert run("--version").stdout == f"torchgraft, version {torchgraft.__version__}\n"
