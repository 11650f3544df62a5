"""A remedy that the command line prints can be typed there, and works."""

import shlex

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import torchgraft as tg
from torchgraft.cli import cli
from torchgraft.cli.keywords import as_typed


@pytest.mark.parametrize(
    ("library", "typed"),
    [
        ("settle it with rename= (which tensor)", "settle it with --rename (which tensor)"),
        ("or on_doubt='take'", "or --on-doubt take"),
        ("e.g. rename={'': 'rgb.'}", "e.g. --rename '=rgb.'"),
        ("merge_lora= adds them", "--merge-lora adds them"),
        ("rename: nothing in the model is called 'a'", "rename: nothing in the model is called 'a'"),
        ("or permute= (which layout), or", "or --set permute=JSON (which layout), or"),
        ("with fan_out={'': [...]}, or", "with --set 'fan_out={\"\": [...]}', or"),
        ("fan_out={'a': ['b', 'c']} fills both", '--set \'fan_out={"a": ["b", "c"]}\' fills both'),
        ("permute={'a': (1, 0)}: an order", "--set 'permute={\"a\": [1, 0]}': an order"),
        (
            "allow it with policy=tg.Policy(lossy=tg.Verdict.ACCEPT)",
            'allow it with --set \'policy={"lossy": "accept"}\'',
        ),
        ("source_model= tells, a.rename=1", "--source-model tells, a.rename=1"),
        ("with fresh=['a.*.b', 'c'], or", "with --fresh 'a.*.b' --fresh c, or"),
        ("rename={'a.{i}': 'b.{i}', 'c': 'd'}", "--rename 'a.{i}=b.{i}' --rename 'c=d'"),
        ("grow_rows={'a': 'mean'} or merge_lora=True", '--set \'grow_rows={"a": "mean"}\' or --merge-lora'),
        ("grids={'p': ((2, 3), (height, width))}", "--set 'grids={\"p\": [[2, 3], [height, width]]}'"),
        ("grids=[[2, 3]]: use a dictionary", "--set 'grids=[[2, 3]]': use a dictionary"),
        ("layers=1: use a dictionary, not int", "--layers 1: use a dictionary, not int"),
        ("layers={'a.blocks': [0, 2], 'b': [1]}", "--layers a.blocks=0,2 --layers b=1"),
        ("layers={'a': ...}: there is no layer 4", "--set 'layers={\"a\": ...}': there is no layer 4"),
        ("num_heads=8: the rows", "--num-heads 8: the rows"),
        ("--set grids=((2,3)): no JSON", "--set grids=((2,3)): no JSON"),
    ],
)
def test_keywords_are_spelled_as_options_where_there_are_any(library, typed):
    assert as_typed(library) == typed


def run(*words):
    return CliRunner().invoke(cli, list(words))


def test_what_a_refused_load_prints_settles_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)).state_dict()
    tg.save("one.safetensors", one)
    twins = nn.ModuleDict({side: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)) for side in ("left", "right")})
    tg.save("twins.safetensors", twins.state_dict())
    words = ("load", "one.safetensors", "--model", "twins.safetensors", "-o", "out.safetensors")
    refused = run(*words)
    assert refused.exit_code == tg.PlanRefusedError.exit_code
    remedy = shlex.split(refused.output.rpartition("e.g. ")[2])
    assert run(*words, *remedy).exit_code == 0
    with tg.open_checkpoint("out.safetensors") as source:
        assert torch.equal(source.read("", "left.0.weight"), one["0.weight"])


def test_a_plan_names_options_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tg.save("a.safetensors", {"odd": torch.ones(7)})
    tg.save("b.safetensors", {"even.weight": torch.ones(4, 4)})
    shown = run("plan", "a.safetensors", "--model", "b.safetensors")
    assert "(--rename)" in shown.output
    assert "rename=" not in shown.output
