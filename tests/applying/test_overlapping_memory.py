"""Slots that share memory without being one: each is put back, none is overwritten unseen, and what changed along is told."""

from __future__ import annotations

import pytest
import torch
from applying_helpers import fingerprint
from torch import nn

import torchgraft as tg

SIZES = (8, 300)  # of a matrix: small, or so large that only parts of it are compared after a copy
VIEWS = {
    "diagonal": torch.Tensor.diagonal,
    "rows": lambda matrix: matrix[len(matrix) // 3 : len(matrix) // 2],
    "transposed": torch.Tensor.t,
    "flat": torch.Tensor.flatten,
    "columns": lambda matrix: matrix[:, ::3],
}


def model_with(view, size):
    model = nn.Sequential(nn.Linear(size, size), nn.Linear(size, 2))
    model.register_buffer("seen", VIEWS[view](model[0].weight.data))
    return model


def saved_for(model, view, dtype=torch.float32):
    state = {name: torch.randn(value.shape, dtype=dtype) for name, value in model.state_dict().items()}
    return state | {"seen": VIEWS[view](state["0.weight"]).clone()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_that_the_file_contradicts_is_found_and_everything_put_back(view, size, dtype):
    model = model_with(view, size)
    saved = saved_for(model, view, dtype)
    saved["seen"] = torch.randn(saved["seen"].shape, dtype=dtype)
    for undo in ("auto", "keep", "check", "none"):
        before = fingerprint(model)
        with pytest.raises(tg.ApplyError, match=r"is not what was to be written .* the model was put back"):
            tg.load(model, saved, undo=undo)
        assert fingerprint(model) == before


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_that_the_file_agrees_with_is_filled(view, size):
    model = model_with(view, size)
    saved = saved_for(model, view)
    tg.load(model, saved)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_that_the_file_lacks_changes_along_and_that_is_told(view):
    model = model_with(view, 8)
    saved = saved_for(model, view)
    wanted = saved.pop("seen")
    report = tg.load(model, saved)
    assert torch.equal(model.seen, wanted)
    told = [objection.text for objection in report.plan.warnings if objection.names == ("seen",)]
    assert [text.partition("] ")[2] for text in told] == [
        "is not filled, and shares memory with 0.weight: its values changed with those"
    ]


def test_a_conjugate_that_shares_a_part_of_a_parameter_counts_as_well():
    model = nn.Module()
    model.register_parameter("wave", nn.Parameter(torch.randn(20_000, dtype=torch.complex64)))
    model.register_buffer("mirrored", model.wave.data[9_000:9_100].conj())
    saved = {name: torch.randn(value.shape, dtype=value.dtype) for name, value in model.state_dict().items()}
    before = model.wave.tolist()
    with pytest.raises(tg.ApplyError, match="differing: wave"):
        tg.load(model, saved)
    assert model.wave.tolist() == before
