"""`layers=` of a model that is a list of layers itself, as an `nn.Sequential` is: the path is `{i}`, as its note says."""

import re

import pytest
import torch
from torch import nn

import torchgraft as tg


def rows(depth):
    return nn.Sequential(*[nn.Linear(3, 3) for _ in range(depth)])


def body(depth):
    return nn.ModuleDict({"body": rows(depth)})


def taken(plan):
    return [step.feeds[0].key if step.feeds else None for step in plan.steps if step.slot.name.endswith("weight")]


@pytest.mark.parametrize("prefix", ["", "module.", "module.model.", "unheard_of."])
@pytest.mark.parametrize(("depth", "picks"), [(5, [0, 0, 1, 1, 2]), (2, [0, 2]), (4, [2, 1])])
def test_picks_go_to_the_layers_of_the_model_itself(prefix, depth, picks):
    file = {f"{prefix}{name}": value for name, value in rows(3).state_dict().items()}
    expected = [f"{prefix}{n}.weight" for n in picks] + [None] * (depth - len(picks))
    assert taken(tg.plan(rows(depth), file, layers={"{i}": picks})) == expected


def test_the_note_names_the_list_as_layers_takes_it():
    (note,) = tg.plan(rows(4), rows(2)).notes
    path = note.partition(":")[0]
    assert taken(tg.plan(rows(4), rows(2), layers={path: [0, 0, 1, 1]})) == [
        "0.weight",
        "0.weight",
        "1.weight",
        "1.weight",
    ]


@pytest.mark.parametrize("path", ["body", "{i}"])
def test_the_list_may_have_a_path_on_one_side_alone(path):
    assert taken(tg.plan(rows(2), body(3), layers={path: [1, 2]})) == ["body.1.weight", "body.2.weight"]
    assert taken(tg.plan(body(2), rows(3), layers={path: [1, 2]})) == ["1.weight", "2.weight"]


def test_layers_within_other_lists_are_not_meant():
    deep = {f"{block}.{layer}.weight": torch.randn(3, 3) for block in range(2) for layer in range(2)}
    model = nn.Sequential(*[nn.Sequential(*[nn.Linear(3, 3, bias=False) for _ in range(2)]) for _ in range(2)])
    assert taken(tg.plan(model, deep, layers={"{i}": [1, 0]})) == [
        "1.0.weight",
        "1.1.weight",
        "0.0.weight",
        "0.1.weight",
    ]


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"": [0]}, "no list of layers at ''; did you mean '{i}'?"),
        ({"{i}": [7]}, "there is no layer 7 in the file; it has 0 to 2"),
        ({"{i}": [0, 1, 2, 0, 1]}, "5 layers are given, and the model has 4 there"),
    ],
)
def test_what_means_nothing_is_an_error(layers, said):
    with pytest.raises(tg.UsageError, match=re.escape(said)):
        tg.plan(rows(4), rows(3), layers=layers)
