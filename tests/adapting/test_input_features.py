"""`in_channels=` also says what becomes of the inputs of a linear layer."""

import pytest
import torch
from torch import nn

import torchgraft as tg


@pytest.mark.parametrize(
    ("rule", "new"),
    [
        ("zero", lambda old, _: torch.zeros(6, 2) + 0 * old[:, :2]),
        ("fill-mean", lambda old, _: old.mean(1, keepdim=True).expand(6, 2)),
        ("copy:1", lambda old, _: old[:, [1, 1]]),
        ("fresh", lambda _, first: first[:, 10:]),
    ],
)
def test_added_inputs_start_as_the_rule_says(rule, new):
    model = nn.ModuleDict({"atoms": nn.Linear(12, 6), "out": nn.Linear(6, 2)})
    first = model["atoms"].weight.detach().clone()
    file = nn.ModuleDict({"atoms": nn.Linear(10, 6), "out": nn.Linear(6, 2)}).state_dict()
    report = tg.load(model, file, in_channels={"atoms.weight": rule})
    old = file["atoms.weight"]
    assert torch.equal(model["atoms"].weight[:, :10], old)
    assert torch.allclose(model["atoms"].weight[:, 10:], new(old, first), atol=1e-6)
    assert not report.plan.fresh


def test_without_a_rule_they_stay_a_matter_of_shapes():
    model = nn.ModuleDict({"atoms": nn.Linear(12, 6), "out": nn.Linear(6, 2)})
    file = nn.ModuleDict({"atoms": nn.Linear(10, 6), "out": nn.Linear(6, 2)}).state_dict()
    (step,) = tg.load(model, file).plan.fresh
    assert step.slot.name == "atoms.weight"
    assert step.why.text.endswith("; in_channels={'NAME': 'fresh'} keeps the first 10, if they mean the same")


def test_a_rule_that_is_none_is_refused_with_those_that_are():
    with pytest.raises(tg.UsageError, match=r"accepted are 'repeat', .* 'fresh', .* 'copy:K'"):
        tg.load(nn.Conv2d(5, 4, 3), nn.Conv2d(3, 4, 3), in_channels={"weight": "tile"})


def test_a_file_that_fits_nowhere_is_not_told_how_a_layer_grows():
    model = nn.ModuleDict({"body": nn.Linear(7, 9), "head": nn.Linear(48, 10, bias=False)})
    with pytest.raises(
        tg.PlanRefusedError,
        match=r"\[10, 32\] in the file, \[10, 48\] in the model\n  is it the right file, and the model of its sizes",
    ):
        tg.load(model, {"head.weight": torch.rand(10, 32), "other.weight": torch.rand(3, 5)})
