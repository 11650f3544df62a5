"""What a recurrent cell is fed and what it keeps are weighed together: one matrix alone is no half of what the cell knew."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def speech(width, kind=nn.LSTM, **how):
    """A recurrent layer with `width` features, and what stands around it."""
    return nn.ModuleDict({"embedding": nn.Embedding(9, 5), "rnn": kind(width, 6, **how), "out": nn.Linear(6, 4)})


def filled(plan):
    return {name for name, step in plan.by_slot.items() if step.feeds}


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.LSTMCell, nn.RNN])
@pytest.mark.parametrize("width", [3, 8])
def test_a_cell_that_is_fed_more_or_less_is_in_doubt_as_a_whole(kind, width):
    model, saved = speech(width, kind), speech(5, kind).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match="of the same cell does not fit") as refused:
        tg.load(model, saved)
    assert "fresh=['rnn']" in str(refused.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    kept = {name for name in saved if not name.startswith("rnn")}
    assert filled(tg.plan(model, saved, on_doubt="skip")) == kept == filled(tg.plan(model, saved, fresh=["rnn"]))
    taken = filled(tg.plan(model, saved, on_doubt="take"))
    assert len(taken - kept) == 3


def test_only_the_cells_that_are_fed_more_are_in_doubt():
    plan = tg.plan(speech(8, num_layers=2), speech(5, num_layers=2).state_dict())
    assert {step.slot.name for step in plan.doubtful} == {
        f"rnn.{role}_l0" for role in ("weight_hh", "bias_ih", "bias_hh")
    }


def test_another_direction_or_layer_is_another_cell():
    """A second direction stays fresh as a whole, and tears nothing; the layer above is fed twice as much."""
    plan = tg.plan(speech(5, num_layers=2, bidirectional=True), speech(5, num_layers=2).state_dict())
    assert {step.slot.name for step in plan.doubtful} == {
        f"rnn.{role}_l1" for role in ("weight_hh", "bias_ih", "bias_hh")
    }
    saved = speech(5).state_dict()
    assert filled(tg.plan(speech(5, bidirectional=True), saved)) == set(saved)


def test_a_matrix_that_the_caller_keeps_fresh_tears_nothing():
    plan = tg.plan(speech(5), speech(5).state_dict(), fresh=["rnn.weight_ih_l0"])
    assert not plan.refusals
