"""Plain data beside the tensors of a torch file comes back as what it was: True is no 1."""

import pytest
import torch

import torchgraft as tg

VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    255,
    256,
    1 << 40,
    -(1 << 70),
    0.5,
    "",
    "naïve ☃",
    [],
    [None, [True]],
    {"a": (1, 2, 3, 4)},
]


def shown(value):
    """Return a value with the type of everything in it."""
    if isinstance(value, dict):
        return {key: shown(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(shown(item) for item in value)
    return type(value), value


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_value_comes_back(value, tmp_path):
    tg.save(tmp_path / "a.pt", {"w": torch.ones(2), "extra": value})
    read = torch.load(tmp_path / "a.pt", weights_only=True)
    assert shown(read["extra"]) == shown(value)
