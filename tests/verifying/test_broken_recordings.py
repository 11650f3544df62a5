"""Recordings are files like others: figures that no tensor has and numbers that lead nowhere are refused, by name."""

import json
import re
import struct

import pytest
import torch
from torch import nn

import torchgraft as tg


@pytest.fixture
def recorded(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    tg.record(model, torch.randn(2, 4), tmp_path / "a.safetensors")
    return model, tmp_path / "a.safetensors"


def changed(path, change):
    """Write the file anew with other text beside its tensors; `change` gets the runs and the weights."""
    raw = path.read_bytes()
    count = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + count])
    facts = header["__metadata__"]
    runs, weights = json.loads(facts["runs"]), json.loads(facts["weights"])
    change(runs[0]["recording"], weights)
    facts["runs"], facts["weights"] = json.dumps(runs), json.dumps(weights)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + count :])


def first_look(run):
    return next(value[2] for value in run["values"] if value[2])


CHANGES = {
    "word": lambda run, _: first_look(run).__setitem__(1, "\x1b[2J"), "list": lambda run, _: first_look(run).__setitem__(0, [3]),
    "huge": lambda run, _: first_look(run).__setitem__(2, 10**400), "negative_square": lambda run, _: first_look(run).__setitem__(2, -1.0),
    "no_elements": lambda run, _: first_look(run).__setitem__(0, 0), "all_zero": lambda run, _: first_look(run).__setitem__(slice(2, 5), [5.0, 0.0, 0.0]),
    "few": lambda run, _: first_look(run).pop(), "output": lambda run, _: run["outputs"].append(999), "output_word": lambda run, _: run["outputs"].append("x"),
    "input": lambda run, _: run["operations"][0].__setitem__(5, [-1]), "made_by": lambda run, _: run["values"][-1].__setitem__(0, 999),
    "weight": lambda _, weights: weights.__setitem__("0.weight", [1, 2]),
    "weight_word": lambda _, weights: weights["0.weight"].__setitem__(3, None),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_they_are_refused(recorded, change):
    model, path = recorded
    assert tg.verify(model, golden=path).passed
    changed(path, CHANGES[change])
    with pytest.raises(tg.UnsupportedCheckpointError, match="recorded runs are broken") as caught:
        tg.verify(model, golden=path)
    assert str(caught.value).isprintable()
    assert re.search(re.escape(path.name), str(caught.value))
