"""HDF5 sorts names; in which order a model has its layers Keras says beside them."""

import struct

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import torchgraft as tg
from torchgraft.reading import open_checkpoint

LAYERS = ["conv", "norm", "again", "head"]


def fixed(names):
    return np.array([name.encode() for name in names])


def variable(names):
    """What h5py makes of a plain list of texts, from its version 3 on."""
    return [name.encode() for name in names]


def written(path, *, layers=LAYERS, parts=1, texts=fixed, **options):
    """A file as Keras 2 writes it, its list of layers in so many attributes."""
    with h5py.File(path, "w", **options) as file:
        root = file.create_group("model_weights")
        for number, name in enumerate(layers):
            inside = root.create_group(name).create_group(name)
            for role in ("kernel:0", "bias:0"):
                inside[role] = np.full(2, number, np.float32)
            root[name].attrs["weight_names"] = texts([f"{name}/kernel:0", f"{name}/bias:0"])
        for at, part in enumerate(np.array_split(layers, parts)):
            root.attrs[f"layer_names{at}" if parts > 1 else "layer_names"] = texts([str(name) for name in part])
    return path


def order(path):
    with open_checkpoint(path) as source:
        return list(source.networks[0].specs)


WANTED = [f"{name}.{name}.{role}" for name in LAYERS for role in ("kernel:0", "bias:0")]


@pytest.mark.parametrize("texts", [fixed, variable])
@pytest.mark.parametrize("options", [{}, {"parts": 2}, {"userblock_size": 512}])
def test_layers_and_weights_come_in_the_order_that_keras_says(tmp_path, texts, options):
    assert order(written(tmp_path / "m.h5", texts=texts, **options)) == WANTED


def test_a_list_that_is_kept_elsewhere_says_nothing(tmp_path):
    assert sorted(order(written(tmp_path / "m.h5", texts=variable, libver="latest"))) == sorted(WANTED)


def element(data, text):
    """Where the attribute says that `text` lies: its size, the address of its heap and its number there."""
    heap = data.index(b"GCOL")
    found = heap + 16
    while True:
        number, size = struct.unpack_from("<H6xQ", data, found)
        if data[found + 16 : found + 16 + size] == text:
            return data.index(struct.pack("<IQI", size, heap, number))
        found += 16 + -(-size // 8) * 8


@pytest.mark.parametrize(
    ("at", "kind", "value", "words"),
    [
        (0, "<I", 1 << 31, "no text of 2147483648 bytes"),
        (4, "<Q", 1 << 40, "truncated"),
        (4, "<Q", 8, "no heap at byte 8"),
        (12, "<I", 999, "no text of 4 bytes at number 999"),
    ],
)
def test_texts_that_lie_nowhere_are_broken(tmp_path, at, kind, value, words):
    path = written(tmp_path / "m.h5", texts=variable)
    data = bytearray(path.read_bytes())
    struct.pack_into(kind, data, element(data, b"norm") + at, value)
    path.write_bytes(data)
    with pytest.raises(tg.CorruptCheckpointError, match=words):
        order(path)


@pytest.mark.parametrize("size", [1 << 20, 0, 24])
def test_a_heap_of_another_size_is_broken(tmp_path, size):
    path = written(tmp_path / "m.h5", texts=variable)
    data = bytearray(path.read_bytes())
    struct.pack_into("<Q", data, data.index(b"GCOL") + 8, size)
    path.write_bytes(data)
    with pytest.raises(tg.CorruptCheckpointError, match=r"truncated|no text of|leaves it"):
        order(path)


def test_texts_take_no_more_than_an_honest_file_needs(tmp_path, monkeypatch):
    monkeypatch.setattr("torchgraft.reading.formats.hdf5_texts.MAX_BYTES", 10_000)
    assert order(written(tmp_path / "m.h5", texts=variable)) == WANTED
    with pytest.raises(tg.LimitExceededError, match="names of layers"):
        order(written(tmp_path / "n.h5", layers=[f"{at:03}" for at in range(200)], texts=variable))


def test_what_no_list_has_keeps_its_place_by_name(tmp_path):
    path = written(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = np.array([b"norm", b"gone"])
        file["model_weights/norm"].attrs["weight_names"] = 3
    assert sorted(order(path)) == sorted(WANTED)


def test_layers_of_one_shape_go_by_that_order(tmp_path):
    names = ["first", "second", "alpha", "beta"]
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for number, name in enumerate(names):
            file[f"{name}/{name}/kernel:0"] = np.full((4, 4), number, np.float32)
            file[f"{name}/{name}/bias:0"] = np.full(4, number, np.float32)
        file.attrs["layer_names"] = np.array([name.encode() for name in names])
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in names])
    tg.load(model, tmp_path / "m.h5", on_doubt="take")
    assert all(torch.equal(layer.bias, torch.full((4,), float(at))) for at, layer in enumerate(model))
