"""HDF5 sorts names; in which order a model has its layers Keras says beside them."""

import h5py
import numpy as np
import torch
from torch import nn

import torchgraft as tg
from torchgraft.reading import open_checkpoint

LAYERS = ["conv", "norm", "again", "head"]


def written(path, *, layers=LAYERS, parts=1):
    """A file as Keras 2 writes it, its list of layers in so many attributes."""
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights")
        for number, name in enumerate(layers):
            inside = root.create_group(name).create_group(name)
            for role in ("kernel:0", "bias:0"):
                inside[role] = np.full(2, number, np.float32)
            root[name].attrs["weight_names"] = np.array([f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()])
        names = np.array([name.encode() for name in layers])
        for at, part in enumerate(np.array_split(names, parts)):
            root.attrs[f"layer_names{at}" if parts > 1 else "layer_names"] = part
    return path


def order(path):
    with open_checkpoint(path) as source:
        return list(source.networks[0].specs)


def test_layers_and_weights_come_in_the_order_that_keras_says(tmp_path):
    wanted = [f"{name}.{name}.{role}" for name in LAYERS for role in ("kernel:0", "bias:0")]
    assert order(written(tmp_path / "m.h5")) == wanted
    assert order(written(tmp_path / "n.h5", parts=2)) == wanted


def test_what_no_list_has_keeps_its_place_by_name(tmp_path):
    path = written(tmp_path / "m.h5")
    with h5py.File(path, "a") as file:
        file["model_weights"].attrs["layer_names"] = np.array([b"norm", b"gone"])
        file["model_weights/norm"].attrs["weight_names"] = 3
    assert sorted(order(path)) == sorted(f"{name}.{name}.{role}" for name in LAYERS for role in ("kernel:0", "bias:0"))


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
