"""Inputs that are the same along an axis prove no order of entries along it: outputs agree whatever the order is."""

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core.proof import Means

TURNED = {"0.weight": [0, 1, 3, 2], "2.weight": [0, 1, 3, 2]}  # kernels with rows and columns exchanged


def net():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


def by_outputs(parts):
    return {name for part in parts if part.means is Means.OUTPUTS for name in part.slots}


ALIKE = {
    "one color": torch.ones(2, 3, 12, 12),
    "columns alike": torch.randn(2, 3, 12, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, -1, 12),
}


@pytest.mark.parametrize(
    "inputs", [*ALIKE.values(), lambda model: model(torch.ones(1, 3, 12, 12))], ids=[*ALIKE, "callable"]
)
def test_kernels_are_not_proved_by_images_that_show_no_order_in_them(inputs):
    source, model = net(), net()
    report = tg.load(model, source.state_dict(), permute=TURNED if inputs is not ALIKE["columns alike"] else {})
    said = tg.verify(model, source, inputs, plan=report)
    assert said.passed
    assert by_outputs(said.parts) == set(model.state_dict()) - set(TURNED)
    assert any("don't show in what order the entries of {0,2}.weight stand" in note for note in said.notes), said.notes


def test_a_plan_that_such_images_would_prove_is_as_sure_as_before():
    source = net()
    plan = tg.plan(net(), source.state_dict(), source_model=source, inputs=ALIKE["one color"])
    assert plan.proof.passed
    assert not plan.proof.stands
    assert by_outputs(plan.proof.parts) == set(source.state_dict()) - set(TURNED)
    assert "don't show in what order" in plan.proof.words()


@pytest.mark.parametrize("inputs", [torch.randn(2, 3, 12, 12), [torch.ones(2, 3, 12, 12), torch.randn(2, 3, 12, 12)]])
def test_one_other_image_is_enough(inputs):
    source, model = net(), net()
    said = tg.verify(model, source, inputs, plan=tg.load(model, source))
    assert by_outputs(said.parts) == set(model.state_dict())
    assert not any("in what order" in note for note in said.notes)


def test_what_is_the_same_along_an_axis_itself_has_no_order_there():
    source, model = (nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Flatten(), nn.Linear(64, 2)) for _ in range(2))
    nn.init.ones_(source[0].weight)
    said = tg.verify(model, source, torch.ones(1, 3, 6, 6), plan=tg.load(model, source))
    assert "0.weight" in by_outputs(said.parts)
