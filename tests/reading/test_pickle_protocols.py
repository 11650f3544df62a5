"""A torch file is read whatever protocol its pickle has, and whatever else lies beside the tensors."""

import argparse
import enum
from collections import OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest
import torch

import torchgraft as tg

Pair = namedtuple("Pair", ["left", "right"])  # noqa: PYI024  # as old training scripts have them


class Phase(enum.Enum):
    TRAIN = "train"


class Numbers(list):
    """A class of the training script's own that is a list."""


class Table(dict):
    """One that is a dictionary."""


class Settings:
    def __init__(self):
        self.rate, self.names = 0.1, {"a"}


BESIDE = {
    "none, truths and numbers": [None, True, False, 0, -1, 70000, 1 << 40, -(1 << 80), 0.5, float("inf"), 2 + 3j],
    "texts and bytes": ["", "naïve ☃", b"", b"\x00\xff", bytearray(b"abc"), bytearray()],
    "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, {1: {2: [3]}}, {1, 2}, frozenset({"a"}), set()],
    "classes of Python": [OrderedDict(a=1), defaultdict(list, a=[1]), range(3), slice(1, 2), argparse.Namespace(lr=1)],
    "classes of the script": [Pair(1, 2), Phase.TRAIN, Numbers([1, 2]), Table(a=1), Settings()],
    "of torch and numpy": [torch.float16, torch.Size([2, 3]), torch.device("cpu"), np.float64(0.5), np.arange(3)],
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])  # torch can't read back what it writes with 0
@pytest.mark.parametrize("beside", BESIDE)
def test_the_tensors_are_found(beside, protocol, zipped, tmp_path):
    weight = torch.randn(3, 4)
    state = OrderedDict([("fc.weight", weight), ("fc.half", weight[1:, ::2]), ("count", torch.tensor(7))])
    content = {"state_dict": state, "beside": BESIDE[beside], "epoch": 3}
    path = tmp_path / "a.pt"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with tg.open_checkpoint(path) as source:
        network = next(n for n in source.networks if "fc.weight" in n.specs)
        found = {name: source.read(network.path, name) for name in state}
    assert all(torch.equal(found[name], value) for name, value in state.items())


def test_entries_of_the_memo_are_found_long_after_others_that_nothing_asks_for(tmp_path):
    texts = [f"text {n}" for n in range(2000)]
    state = {"w": torch.ones(2), "texts": texts, "again": texts[700:] + texts[:2]}
    torch.save(state, tmp_path / "m.pt", pickle_protocol=4)
    with tg.open_checkpoint(tmp_path / "m.pt") as source:
        assert source.metadata["again"] == state["again"]


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
@pytest.mark.parametrize("protocol", [2, 5])
def test_arrays_of_numpy_are_read_in_whatever_order_they_lie(tmp_path, protocol, axes):
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(axes)
    torch.save({"w": array}, tmp_path / "m.pt", pickle_protocol=protocol)
    with tg.open_checkpoint(tmp_path / "m.pt") as source:
        assert torch.equal(source.read("", "w"), torch.from_numpy(array.copy()))


@pytest.mark.parametrize("order", ["<f4", ">f4"])
def test_bfloat16_of_other_devices_is_read_out_of_the_float32_in_its_place(tmp_path, order):
    value = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).bfloat16()

    class OfDevice:
        def __reduce__(self):
            array = value.float().numpy().T.astype(order)
            return torch._utils._rebuild_device_tensor_from_numpy, (array, torch.bfloat16, "cpu", False)

    torch.save({"w": OfDevice()}, tmp_path / "m.pt")
    with tg.open_checkpoint(tmp_path / "m.pt") as source:
        found = source.read("", "w")
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, value.T)
