"""All that the library can be told can be told on the command line: by an option, or by --set in JSON."""

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import torchgraft as tg
from torchgraft.arguments import Arguments
from torchgraft.cli import cli
from torchgraft.cli.keywords import NOT_IN_JSON, SETTABLE, keyword_arguments
from torchgraft.cli.options import PLAN_OPTIONS, with_options
from torchgraft.request import make_request

# A value of each kind that the library takes, as JSON and as it is in Python.
VALUES = {
    "rename": ({"a": "b"}, None),
    "fan_out": ({"": ["left.", "right."]}, None),
    "layers": ({"blocks": [0, 2]}, None),
    "copies": ({"b": "a"}, None),
    "fresh": (["head.*"], None),
    "zero": (["bias"], None),
    "init": ({"b.*": "identity"}, None),
    "prefer": ("ema", None),
    "on_doubt": ("take", None),
    "accept": ("certain", None),
    "min_coverage": (0.5, None),
    "strict": (True, None),
    "policy": ({"lossy": "accept", "min_coverage": 0}, tg.Policy(lossy=tg.Verdict.ACCEPT, min_coverage=0)),
    "grow_rows": ({"words": "mean"}, None),
    "axis_names": (
        {"head": {"source": ["a"], "target": ["a", "b"], "new": "zero"}},
        {"head": tg.AxisNames(["a"], ["a", "b"], new="zero")},
    ),
    "class_names": ({"source": ["a"], "target": ["b"]}, None),
    "class_rows": ({"head": 1}, None),
    "merge_lora": (0.5, None),
    "fuse_branches": (True, None),
    "fold_norms": (0.001, None),
    "qkv_layout": ({"attn.*": "flat"}, None),
    "num_heads": (4, None),
    "kernels": ({"conv.weight": "resample"}, None),
    "in_channels": ({"conv.weight": "sum"}, None),
    "grids": ({"pos": [[2, 2], [4, 3]]}, None),
    "permute": ({"w": [1, 0]}, None),
    "tensor_parallel": ({"*.qkv.weight": "columns"}, None),
    "statistics": (True, None),
    "golden": ("run.safetensors", None),
    "learned": ("learned.json", None),
}


def test_every_keyword_has_an_option_or_can_be_set():
    bearer = with_options(*PLAN_OPTIONS)(lambda: None)
    options = {option.name for option in bearer.__click_params__}
    assert set(Arguments.__annotations__) == set(SETTABLE) | set(NOT_IN_JSON)
    assert set(NOT_IN_JSON) <= options
    assert set(VALUES) == set(SETTABLE)


@pytest.mark.parametrize("name", [name for name in SETTABLE if name != "learned"])
def test_a_keyword_in_json_is_what_the_library_takes(name):
    value, expected = VALUES[name]
    given = keyword_arguments({"settings": (f"{name}={json.dumps(value)}",)})
    assert given == {name: expected or value}
    need = {"class_names": ("class_rows",), "class_rows": ("class_names",)}.get(name, ())
    make_request(**given, **{other: VALUES[other][0] for other in need})


def test_files_hold_one_value_or_all(tmp_path):
    (tmp_path / "one.json").write_text('{"blocks": [0, 2]}')
    (tmp_path / "all.json").write_text('{"layers": {"blocks": [0, 2]}, "accept": "certain"}')
    assert keyword_arguments({"settings": (f"layers=@{tmp_path}/one.json",)}) == {"layers": {"blocks": [0, 2]}}
    assert keyword_arguments({"settings": (f"@{tmp_path}/all.json", "prefer=ema")}) == {
        "layers": {"blocks": [0, 2]}, "accept": "certain", "prefer": "ema",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["layers"], "write it as KEYWORD=JSON"),
        (["layer={}"], "did you mean 'layers'"),
        (["layers={'blocks': [0]}"], "texts need double quotes"),
        (["layers=@no/such.json"], "no/such.json can't be read"),
        (["@no/such.json"], "can't be read"),
        (['layers={"a": [0]}', 'layers={"b": [0]}'], "given twice"),
        (["source_model=net"], "use --source-model"),
        (["inputs=1"], "use --input"),
        (["policy=1"], "a verdict for each kind"),
        (['policy={"lossi": "accept"}'], "did you mean 'lossy'"),
        (['policy={"lossy": "yes"}'], "use one of refuse, warn, accept"),
        (['axis_names={"head": ["a"]}'], "needs an object with source and target"),
        (['grids={"pos": [1, 2]}'], "give ((height, width) in the file"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(settings, said):
    with pytest.raises(tg.UsageError, match=None) as caught:
        make_request(**keyword_arguments({"settings": settings}))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run_nets.py").write_text(
        "from torch import nn\n"
        "def old():\n    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 2))\n"
        "def new():\n    return nn.ModuleList(old())\n"
        "def same():\n    return nn.Sequential(nn.Sequential(*old()))\n"
    )
    return lambda *words: CliRunner().invoke(cli, [str(word) for word in words])


@pytest.mark.parametrize("picks", [["--set", 'layers={"blocks": [1, 3, 5]}'], ["--layers", "blocks=1,3, 5"]])
def test_layers_are_picked(run, picks):
    def blocks(n):
        return nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(3, 3) for _ in range(n))})

    tg.save("six.safetensors", blocks(6).state_dict())
    tg.save("three.safetensors", blocks(3).state_dict())
    picked = run("load", "six.safetensors", "--model", "three.safetensors", "-o", "out.safetensors", *picks)
    assert picked.exit_code == 0, picked.output
    with tg.open_checkpoint("six.safetensors") as old, tg.open_checkpoint("out.safetensors") as new:
        assert torch.equal(new.read("", "blocks.2.weight"), old.read("", "blocks.5.weight"))


@pytest.mark.parametrize(
    "said", ["blocks", "blocks=", "blocks=0,", "blocks=0-4", "blocks=-1", "blocks=1e3", f"blocks={'9' * 5000}"]
)
def test_layers_that_are_no_numbers_are_refused(run, said):
    refused = run("plan", "no.pt", "--model", "no.pt", "--layers", said)
    assert refused.exit_code == tg.UsageError.exit_code
    assert "write it as LIST=0,2,4" in refused.stderr
    assert len(refused.stderr) < 5000


def test_a_source_is_shown_run_and_recorded(run):
    made = run("plan", "no.pt", "--model", "run_nets.py:same", "--source-kwargs", "{}")
    assert "--source-kwargs goes with --source-model" in made.stderr
    nets: dict = {}
    exec(open("run_nets.py").read(), nets)  # noqa: PTH123, SIM115, S102
    source = nets["old"]()
    torch.save(source.state_dict(), "old.pt")
    tg.record(source, torch.randn(2, 4), "golden.safetensors")
    model = ("--model", "run_nets.py:same")
    shown = run("plan", "old.pt", *model, "--source-model", "run_nets.py:old")
    assert shown.exit_code == 0, shown.output
    for given in (["--source-model", "run_nets.py:old", "--input", "2x4"], ["--golden", "golden.safetensors"]):
        done = run("load", "old.pt", *model, *given, "-o", "out.pt", "--json")
        assert done.exit_code == 0, done.output
        assert "outputs" in [check["name"] for check in json.loads(done.stdout)["checks"]]
        assert run("verify", "old.pt", *model, *given).exit_code == 0
    assert "verify needs --source-model and --input" in run("verify", "old.pt", *model).stderr


def test_a_least_coverage_of_zero_is_heard(run):
    tg.save("tiny.safetensors", {"head.bias": torch.ones(10)})
    tg.save("net.safetensors", {"head.bias": torch.ones(10), "wide": torch.ones(4000)})
    tg.save("more.safetensors", {"head.bias": torch.ones(10), "other": torch.ones(4001)})
    words = ("plan", "more.safetensors", "--model", "net.safetensors")
    assert run(*words).exit_code == tg.PlanRefusedError.exit_code
    assert run(*words, "--min-coverage", "0").exit_code == 0


def test_one_of_several_networks_is_compared(run):
    torch.save({"model": {"w": torch.zeros(2)}, "ema": {"w": torch.ones(2)}}, "two.pt")
    torch.save({"w": torch.ones(2)}, "one.pt")
    assert run("diff", "two.pt", "one.pt", "--values", "--exit-code", "--prefer", "ema").exit_code == 0
    assert run("diff", "two.pt", "one.pt", "--values", "--exit-code", "--prefer", "model").exit_code == 1


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_no_summary_is_cut_off(run, command):
    assert "..." not in run("--help").stdout.replace("[ARGS]...", "")
    page = run(command, "--help").stdout
    assert page.index("Output:") < page.index("--json") < page.index("--help")
