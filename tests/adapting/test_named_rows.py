"""A file that names its classes says what its rows mean; that nobody compared them with the model's is told."""

import json

import pytest
import torch
from torch import nn

import torchgraft as tg

NAMES = ["cat", "dog", "car", "bus", "tree"]


def net(classes=5):
    return nn.ModuleDict({"body": nn.Conv2d(3, 8, 3), "head": nn.Linear(8, classes)})


def facts(**more):
    return {"state_dict": net().state_dict(), **more}


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"CLASSES": NAMES}, "CLASSES"),
        ({"meta": {"CLASSES": tuple(NAMES), "epoch": 3}}, "meta/CLASSES"),
        ({"hyper_parameters": {"data": {"labels": NAMES}}}, "hyper_parameters/data/labels"),
        ({"names": dict(enumerate(NAMES))}, "names"),
    ],
)
def test_rows_that_the_file_names_are_said_to_be_unchecked(more, path):
    (said,) = tg.plan(net(), facts(**more)).notes
    assert said == (
        f"the file names 5 rows ({path}: 'cat', 'dog', …), as many as there are in head.weight: whether the model's mean the "
        "same was not checked; class_names= moves rows by their names"
    )


@pytest.mark.parametrize(
    "more",
    [
        {"CLASSES": NAMES[:4]},
        {"CLASSES": list(range(5))},
        {"notes": NAMES},
        {"id2label": {str(row): f"LABEL_{row}" for row in range(5)}},
        {"names": {"a": "cat", "b": "dog"}},
    ],
)
def test_other_lists_say_nothing_of_rows(more):
    assert tg.plan(net(), facts(**more)).notes == ()


def test_nothing_is_said_where_the_rows_stay_fresh_or_follow_names():
    file = facts(CLASSES=NAMES)
    assert not any("file names" in note for note in tg.plan(net(3), file).notes)
    model = net()
    report = tg.load(
        model, file, class_names={"source": NAMES, "target": NAMES[::-1]}, class_rows={"head": 1}
    )  # fmt: skip
    assert not any("file names" in note for note in report.plan.notes)
    assert torch.equal(model["head"].weight, file["state_dict"]["head.weight"].flip(0))


def test_labels_of_a_configuration_beside_the_file_count(tmp_path):
    torch.save(net().state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(
        json.dumps({"id2label": {str(4 - row): name for row, name in enumerate(NAMES)}})
    )
    (note,) = tg.plan(net(), tmp_path).notes
    assert "config/id2label: 'tree', 'bus', …" in note


def test_a_model_that_is_nothing_but_its_head_has_no_path():
    old, head = nn.Linear(4, 3), nn.Linear(4, 2)
    names = {"source": ["a", "b", "c"], "target": ["c", "a"]}
    tg.load(head, old, class_names=names, class_rows={"": 1})
    assert torch.equal(head.weight, old.weight[[2, 0]])
    assert torch.equal(head.bias, old.bias[[2, 0]])
    with pytest.raises(tg.UsageError, match=r"no tensor of the model is called ''$"):
        tg.load(head, old, permute={"": (1, 0)})
