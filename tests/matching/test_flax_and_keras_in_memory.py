"""Names that Flax and Keras give tensors in a dictionary: paths as tuples, the value of a variable at the end, slashes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import torchgraft as tg

WANTED = {
    ("layers", 0, "kernel"): (8, 16),
    ("layers", 0, "bias"): (16,),
    ("layers", 1, "kernel"): (16, 3),
    ("layers", 1, "bias"): (3,),
}


def model() -> nn.ModuleDict:
    return nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 3)])})


def nested(file: dict[tuple[object, ...], torch.Tensor]) -> dict[object, object]:
    tree: dict[object, object] = {}
    for path, value in file.items():
        node: dict = tree
        for part in path:
            node = node.setdefault(part, {})
        node["value"] = value
    return tree


@pytest.mark.parametrize(
    "spelled",
    [
        lambda file: file,
        lambda file: {(*path, "value"): value for path, value in file.items()},
        lambda file: {".".join(map(str, path)) + ".raw_value": value for path, value in file.items()},
        nested,
        lambda file: {f"torch_params.layers_{path[1]}/{path[2]}": value for path, value in file.items()},
        lambda file: {f"torch_params.layers_{path[1]}/{path[2]}:0": value for path, value in file.items()},
    ],
    ids=["tuples", "tuples of variables", "flat variables", "nested variables", "keras on torch", "with outputs"],
)
def test_what_flax_and_keras_hold_in_memory_is_read(spelled) -> None:  # any of these
    file = {path: torch.rand(shape) for path, shape in WANTED.items()}
    net = model()
    report = tg.load(net, spelled(file))
    assert not report.plan.fresh
    for path, value in file.items():
        role = {"kernel": "weight"}.get(str(path[2]), str(path[2]))
        assert torch.equal(net.state_dict()[f"layers.{path[1]}.{role}"], value.T if value.dim() > 1 else value)


def test_keys_that_would_be_one_name_stay_as_they_are() -> None:
    a, b = torch.rand(3), torch.rand(3)
    found = tg.inspect({("x", "bias"): a, "x.bias": b})
    assert "2 tensors" in str(found)


@pytest.mark.parametrize("end", [".value", ".raw_value"])
def test_a_layer_that_the_model_calls_so_keeps_its_name(end: str) -> None:
    names = {f"a{end}": (4, 4), f"b{end}": (4, 4)}
    file = {name: torch.rand(shape) for name, shape in names.items()}
    plan = tg.plan(file, file)
    assert [step.feeds[0].key for step in plan.steps] == list(names)
