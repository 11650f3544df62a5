"""A load walks over the model once, and what it compares at the end is what lies in the model then."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.core import places
from torchgraft.core.errors import ApplyError, UsageError
from torchgraft.surveying import survey
from torchgraft.verifying.values import readback


def test_a_load_walks_once(tmp_path, monkeypatch):
    walks = []
    plain = places.Walk.__init__
    monkeypatch.setattr(places.Walk, "__init__", lambda walk, model: walks.append(model) or plain(walk, model))
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    torch.save({name: torch.ones_like(value) for name, value in model.state_dict().items()}, tmp_path / "a.pt")
    tg.load(model, tmp_path / "a.pt")
    assert walks == [model]


def test_what_is_compared_lies_in_the_model_now():
    model = nn.Linear(3, 4)
    before = model.weight
    walk = places.Walk(model)
    assert walk.held()["weight"] is before
    model.weight = nn.Parameter(torch.zeros(4, 3))
    assert walk.held()["weight"] is model.weight
    assert walk.held()["bias"] is model.bias
    del model.bias
    assert walk.held().keys() == {"weight"}
    assert walk.places[0].tensor is before


def test_a_walk_and_its_model_are_surveyed_alike():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert survey(places.Walk(model)) == survey(model)


def test_a_parameter_that_is_replaced_while_a_load_goes_on_is_found(monkeypatch):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    plain = readback.walk_of

    def replaced(seen):
        model[1].weight = nn.Parameter(torch.zeros(2, 4))
        return plain(seen)

    monkeypatch.setattr(readback, "walk_of", replaced)
    with pytest.raises(ApplyError, match=r"1\.weight"):
        tg.load(model, {name: torch.rand_like(value) for name, value in model.state_dict().items()})


def test_only_modules_are_filled():
    with pytest.raises(UsageError, match=r"a dict can't be filled: give an nn.Module"):
        tg.load({"a": torch.zeros(3)}, {"a": torch.ones(3)})
