"""Rows of recurrent cells are gates, which libraries keep in several orders: only names like torch's say in which."""

import pytest
import torch
from torch import nn

import torchgraft as tg


class Cells(nn.Module):
    """Raw tensors of a recurrent layer."""

    def __init__(self, **shapes):
        super().__init__()
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))


def speech(rnn):
    return nn.ModuleDict({"embedding": nn.Embedding(9, 5), "rnn": rnn, "out": nn.Linear(6, 4)})


CELLS = {"lstm": (nn.LSTM, 4), "gru": (nn.GRU, 3)}


@pytest.mark.parametrize("kind", CELLS)
def test_matrices_of_onnx_are_in_doubt(kind):
    make, gates = CELLS[kind]
    saved = speech(Cells(W=(1, gates * 6, 5), R=(1, gates * 6, 6), B=(1, gates * 12))).state_dict()
    plan = tg.plan(speech(make(5, 6)), saved)
    fed = {name for name, step in plan.by_slot.items() if step.feeds and name.startswith("rnn")}
    assert fed
    assert fed == {step.slot.name for step in plan.doubtful}
    assert "libraries keep in several orders" in str(plan)


@pytest.mark.parametrize("back", [False, True])
def test_layers_that_make_all_gates_are_in_doubt(back):
    own = nn.ModuleDict({"i2h": nn.Linear(5, 24), "h2h": nn.Linear(6, 24)})
    sides = speech(own), speech(nn.LSTMCell(5, 6))
    file, model = reversed(sides) if back else sides
    plan = tg.plan(model, file.state_dict())
    assert {name for name, step in plan.by_slot.items() if step.feeds} - {s.slot.name for s in plan.doubtful} == {
        "embedding.weight", "out.weight", "out.bias"
    }  # fmt: skip


def test_cells_that_both_sides_call_as_torch_does_are_as_sure_as_before():
    saved = speech(nn.LSTMCell(5, 6)).state_dict()
    plan = tg.plan(speech(nn.LSTM(5, 6)), saved)
    assert not plan.doubtful
    assert not plan.fresh
