"""Tensors and arrays that are in memory already: each is read as itself, however its mapping makes it."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

import torchgraft as tg

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
