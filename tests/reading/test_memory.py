"""Tensors and arrays that are in memory already: each is read as itself, however its mapping makes it."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.reading import Lent, open_checkpoint

NAMES = [f"layer{n}.weight" for n in range(6)]


class Made(Mapping):
    """Makes a tensor whenever it is asked for one."""

    def __getitem__(self, name):
        return torch.full((2, 3), float(NAMES.index(name)))

    def __iter__(self):
        return iter(NAMES)

    def __len__(self):
        return len(NAMES)


GIVEN = {
    "arrays": lambda: {name: np.full((2, 3), n, np.float32) for n, name in enumerate(NAMES)},
    "arrays of the other byte order": lambda: {name: np.full((2, 3), n, ">f4") for n, name in enumerate(NAMES)},
    "a nested dictionary of arrays": lambda: {
        "model": {n: np.full((2, 3), k, np.float32) for k, n in enumerate(NAMES)}
    },
    "a mapping that makes tensors": Made,
}


@pytest.mark.parametrize("given", GIVEN.values(), ids=GIVEN)
def test_each_tensor_is_read_as_itself(given):
    with tg.open_checkpoint(given()) as source:
        (network,) = source.networks
        assert [float(source.read(network.path, name)[1, 2]) for name in NAMES] == [0, 1, 2, 3, 4, 5]
        assert not network.shared


def test_one_array_under_two_names_is_one_tensor():
    array = np.arange(6, dtype=np.float32)
    with tg.open_checkpoint({"a": array, "b": array, "c": array + 1}) as source:
        assert dict(source.networks[0].shared) == {"b": "a"}


def test_arrays_that_run_backwards_are_read():
    array = np.arange(6, dtype="f4").reshape(2, 3)
    with open_checkpoint({"w": array[::-1, ::-1]}) as source:
        assert torch.equal(source.read("", "w"), torch.from_numpy(array).flip(0, 1))


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_was_opened_elsewhere_stays_open_until_its_owner_closes_it(tmp_path, wrapped):
    saved = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    torch.save(saved, tmp_path / "saved.pt")
    opened = open_checkpoint(tmp_path / "saved.pt")
    given = Lent(opened) if wrapped else opened
    for _ in range(2):
        model = torch.nn.Linear(3, 2)
        tg.load(model, given)
        assert torch.equal(model.weight, saved["weight"])
        assert tg.inspect(given).format == "torch zip"
    opened.close()
    with pytest.raises(tg.UsageError, match="this opened checkpoint was closed; open it again"):
        tg.load(model, opened)


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (torch.empty(2, 2, dtype=torch.bits8), "a.0.w has element type torch.bits8, which torchgraft does not know"),
        (torch.eye(2).to_sparse(), "a.0.w is sparse, which is not read; give to_dense"),
        (
            torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
            "a.0.w is nested, which is not read; give unbind",
        ),
    ],
    ids=["unknown", "sparse", "nested"],
)
def test_what_can_not_be_read_is_named(tensor, text):
    with pytest.raises(tg.UnsupportedCheckpointError, match=text):
        tg.inspect({"a": [{"w": tensor}]})


def test_tensors_on_meta_are_planned_for_and_have_no_values_to_load():
    model, given = nn.Linear(2, 3), nn.Linear(2, 3, device="meta")
    assert tg.plan(model, given).coverage.target == 1
    before = model.weight.tolist()
    with pytest.raises(tg.UnsupportedCheckpointError, match="weight is on the meta device, where nothing has values"):
        tg.load(model, given)
    assert model.weight.tolist() == before


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap])
def test_tensors_inside_a_transformation_are_refused(transform):
    model, said = nn.Linear(3, 2), []

    def step(weight):
        with pytest.raises(tg.UnsupportedCheckpointError, match="weight is inside a transformation") as caught:
            tg.load(model, {"weight": weight, "bias": torch.zeros(2)})
        said.append(caught.value)
        return weight.sum()

    transform(step)(torch.ones(2, 3))
    assert len(said) == 1


class Away(torch.Tensor):
    """Says that it lies on another device, as long as nobody fetches it from there."""

    device = torch.device("cuda")

    def cpu(self):
        return self.as_subclass(torch.Tensor) + 1


def test_what_lies_on_a_device_is_read_from_there():
    source = open_checkpoint({"a": torch.arange(6.0).view(2, 3).as_subclass(Away)})
    assert torch.equal(source.read("", "a"), torch.arange(6.0).view(2, 3) + 1)
    assert type(source.read("", "a")) is torch.Tensor
    buffer = bytearray(24)
    source.read_into("", "a", memoryview(buffer))
    assert torch.frombuffer(buffer, dtype=torch.float32).tolist() == [1, 2, 3, 4, 5, 6]
    assert not source.divisible("", "a")
