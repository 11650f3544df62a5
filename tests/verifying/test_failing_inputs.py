"""A model that fails on one of several inputs is not equal to its source, whatever it gives on the others."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Few(nn.Linear):
    """A layer that takes few rows."""

    def forward(self, x):
        if len(x) > 2:
            raise ValueError("too many rows")
        return super().forward(x)


@pytest.mark.parametrize("recorded", [False, True])
def test_a_failure_on_a_later_input_is_a_difference(tmp_path, recorded):
    source, model = nn.Linear(4, 3), Few(4, 3)
    plan = tg.load(model, source)
    inputs = [torch.randn(2, 4), torch.randn(5, 4)]
    if recorded:
        tg.record(source, inputs, tmp_path / "runs.safetensors")
        found = tg.verify(model, golden=tmp_path / "runs.safetensors", plan=plan)
    else:
        found = tg.verify(model, source, inputs, plan=plan)
    assert [output.passed for output in found.outputs] == [True]
    assert not found.finished
    assert not found.passed
    assert str(found).startswith("the model could not be run to its end\n")
    assert "the model raised ValueError: too many rows" in str(found)


def test_the_input_that_is_worst_says_why_a_plan_is_not_proved():
    source = nn.Linear(4, 3)
    inputs = [torch.randn(rows, 4) for rows in (2, 5, 1)]
    found = tg.plan(Few(4, 3), source, inputs=inputs).proof
    assert not found.passed
    assert found.reason == "the model raised ValueError: too many rows"
