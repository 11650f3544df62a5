"""Outputs that would be equal whatever the models are prove nothing, and are not called equal."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Ends(nn.Module):
    """A linear layer, and what becomes of its result."""

    def __init__(self, end):
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.end = end

    def forward(self, x):
        return self.end(self.lin(x))


MUTE = {
    "zero": lambda y: y * 0,
    "NaN": lambda y: y * float("nan"),
    "infinite": lambda y: y.abs() / 0,
    "empty": lambda y: y[:0],
}


@pytest.mark.parametrize("end", MUTE.values(), ids=MUTE)
def test_outputs_that_any_two_models_might_give_prove_nothing(end):
    model, source = Ends(end), Ends(end)
    with pytest.raises(
        tg.UsageError, match=r"the outputs prove nothing: output \[\d, 4\] hold no number but zero, NaN"
    ):
        tg.verify(model, source, torch.randn(2, 4))
    plan = tg.plan(model, source.state_dict(), source_model=source, inputs=torch.randn(2, 4))
    assert not plan.proof.passed
    assert plan.proof.reason.startswith("the outputs prove nothing")


def test_outputs_that_tell_nothing_are_left_out_and_named():
    model, source = (Ends(lambda y: {"logits": y, "loss": y.sum() * 0}) for _ in range(2))
    source.load_state_dict(model.state_dict())
    found = tg.verify(model, source, torch.randn(2, 4))
    assert found.passed
    assert [one.target for one in found.outputs] == ["logits"]
    assert "outputs of zeros, NaN or nothing on both sides, not compared: loss" in str(found)


def test_infinities_of_other_signs_differ():
    model, source = Ends(lambda y: y.abs() / 0), Ends(lambda y: -y.abs() / 0)
    assert not tg.verify(model, source, torch.randn(2, 4)).passed


def test_outputs_of_other_shapes_are_told_by_their_number_and_the_others_by_their_difference():
    def ends(width):
        return Ends(lambda y: {"logits": y, "rows": y[:, :width]})

    model, source = ends(2), ends(3)
    source.load_state_dict(model.state_dict())
    verdict = str(tg.verify(model, source, torch.randn(2, 4))).splitlines()[0]
    assert verdict == "outputs differ: 1 of 2 has another shape; max rel. diff 0 (tolerance 0.0001)"
    short = Ends(lambda y: y[:, :2])
    assert (
        str(tg.verify(short, source.lin, torch.randn(2, 4))).splitlines()[0]
        == "outputs differ: 1 of 1 has another shape"
    )


def test_a_source_that_does_not_fit_needs_no_name():
    model, source = (nn.Sequential(nn.Linear(4, 6), nn.Linear(6, classes)) for classes in (2, 3))
    causes = tg.verify(model, source, torch.randn(5, 4), plan=tg.load(model, source)).causes
    assert {cause.remedy for cause in causes} == {f"give 1.{role} its value by hand" for role in ("weight", "bias")}


class Picks(Ends):
    """Gives whole numbers, as models do that return tokens."""

    def __init__(self, first):
        super().__init__(lambda y: y.argmax(-1) + first)


def test_whole_numbers_that_differ_by_one_differ_however_large_they_are():
    model, same, source = Picks(50_001), Picks(50_000), Picks(50_000)
    tg.load(model, source)
    tg.load(same, source)
    found = tg.verify(model, source, torch.randn(2, 4))
    assert not found.passed
    assert found.outputs[0].greatest == 1
    assert tg.verify(same, source, torch.randn(2, 4)).passed
