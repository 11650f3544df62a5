"""Reports on real checkpoints stay as they were read by eye, and the right values are in the right places."""

import pytest
import torch
from golden_models import CASES, HERE, PNET, Listed, golden, report

import torchgraft as tg


@pytest.mark.parametrize("name", CASES)
def test_report_is_the_golden_one(name):
    assert report(name) == golden(name).read_text(encoding="utf-8")


def test_no_golden_file_without_a_case():
    assert {path.stem for path in HERE.glob("*.txt")} == set(CASES)


def test_values_of_the_listed_network():
    model = Listed()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tg.load(model, PNET)
    file = torch.load(PNET, weights_only=True)
    now = model.state_dict()
    places = {"conv1": 0, "prelu1": 1, "conv2": 5, "prelu2": 6, "conv3": 7, "prelu3": 8}
    homes = {old: f"features.{new}" for old, new in places.items()} | {"conv4_2": "box"}
    for key, value in file.items():
        owner, _, role = key.rpartition(".")
        if owner in homes:
            assert torch.equal(now.pop(f"{homes[owner]}.{role}"), value), key
    for name, value in now.items():
        assert torch.equal(value, before[name]), f"{name} should have stayed fresh"
