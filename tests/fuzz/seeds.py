"""Small valid files of every format, from which mutants are made, and which mutation goes with which."""

from __future__ import annotations

import io
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

sys.path[:0] = [
    str(Path(__file__).parent),
    *(str(Path(__file__).parents[1] / part) for part in ("reading", "differential")),
]

import numpy as np
import torch
from archive_level import mutate_legacy, mutate_tar, mutate_zip
from bytes_level import mutate
from pickle_level import mutate_pickle
from random_checkpoints import big_endian, tar
from record_level import mutate_gguf, mutate_msgpack, mutate_protobuf
from text_level import mutate_json, mutate_npy, mutate_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    Mutate = Callable[[bytes, Random], bytes]

Files = dict[str, bytes]  # of one checkpoint, by name; the first is what is opened, unless a folder is
STATE = {"w": torch.arange(6.0).reshape(2, 3), "layers.0.bias": torch.arange(4.0) + 10, "n": torch.tensor(3)}


def saved(tree, **how) -> bytes:
    out = io.BytesIO()
    torch.save(tree, out, **how)
    return out.getvalue()


def torch_zip() -> list[Files]:
    half = {
        "h": torch.arange(4).to(torch.float16),
        "t": torch.arange(12.0).reshape(3, 4).t(),
        "p": torch.nn.Parameter(torch.ones(2)),
    }
    wrapped = {
        "state_dict": dict(STATE),
        "epoch": 3,
        "args": {"lr": 0.1},
        "optimizer": {"state": {}, "param_groups": []},
    }
    array = {"w": torch.ones(2), "best": np.float64(0.5), "table": np.arange(3)}
    trees = [STATE, half, wrapped, array, torch.nn.Linear(2, 1)]
    files = [saved(t) for t in trees] + [saved(STATE, pickle_protocol=5), big_endian(saved(STATE), STATE)]
    return [{"m.pt": f} for f in files]


def torch_legacy() -> list[Files]:
    shared = torch.arange(8.0)
    trees = [STATE, {"a": shared, "b": shared[2:5]}, torch.nn.Linear(2, 1)]
    return [{"m.pth": saved(t, _use_new_zipfile_serialization=False)} for t in trees]


def safetensors() -> list[Files]:
    from safetensors.torch import save

    return [
        {"m.safetensors": save(STATE, metadata={"format": "pt"})},
        {"m.safetensors": save({"h": torch.ones(3).bfloat16()})},
    ]


def shards() -> list[Files]:
    from safetensors.torch import save

    places = {"w": "a.safetensors", "layers.0.bias": "b.safetensors", "n": "b.safetensors"}
    index = json.dumps({"metadata": {"total_size": 48}, "weight_map": places}).encode()
    parts = {f"{p}.safetensors": save({k: STATE[k] for k in places if places[k][0] == p}) for p in "ab"}
    return [{"model.safetensors.index.json": index, **parts}]


def numpy() -> list[Files]:
    out = []
    for value in (np.arange(6, dtype="<f4").reshape(2, 3), np.asfortranarray(np.ones((2, 3), ">f8")), np.array(True)):
        file = io.BytesIO()
        np.save(file, value)
        out.append({"m.npy": file.getvalue()})
    return out


def npz() -> list[Files]:
    out = []
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, w=np.arange(6.0), b=np.ones((2, 2), np.float16))
        out.append({"m.npz": file.getvalue()})
    return out


def gguf() -> list[Files]:
    from record_level import struct

    name = struct.pack("<Q", 1) + b"w"
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + name + struct.pack("<IQQIQ", 2, 3, 2, 0, 0)
    return [{"m.gguf": head + bytes(-len(head) % 32) + STATE["w"].numpy().tobytes()}]


def dcp(folder: Path) -> list[Files]:
    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({**STATE, "step": 3}, storage_writer=dcp.FileSystemWriter(folder / "dcp"))
    return [{p.name: p.read_bytes() for p in sorted((folder / "dcp").iterdir())}]


def hdf5() -> list[Files]:
    import h5py

    file = io.BytesIO()
    with h5py.File(file, "w") as out:
        out["model/w"] = np.arange(6.0)
        out.create_dataset("model/z", data=np.ones((4, 4)), compression="gzip")
        out.attrs["backend"] = "x"
        out.attrs["layer_names"] = [b"model", b"other"]
        out["model"].attrs["weight_names"] = [b"z", b"w"]
    return [{"m.h5": file.getvalue()}]


def onnx() -> list[Files]:
    from onnx import helper
    from onnx_files import as_raw, as_typed, constant, model, raw_bytes
    from test_onnx import outside

    branch = helper.make_graph([], "b", [], [], initializer=[as_raw("i", STATE["layers.0.bias"])])
    nodes = [
        helper.make_node("If", ["c"], ["y"], name="choice", then_branch=branch),
        constant("k", np.ones(3, np.float32)),
    ]
    inside = [as_raw("w", STATE["w"]), as_typed("n", STATE["n"]), as_typed("h", torch.ones(2).half())]
    beside = [outside("w", STATE["w"], offset="0", length="24")]
    data = raw_bytes(STATE["w"])
    return [
        {"m.onnx": model(inside, nodes).SerializeToString()},
        {"m.onnx": model(beside).SerializeToString(), "weights.data": data},
    ]


def flax() -> list[Files]:
    from onnx_files import flax_bytes

    chunks = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 2, "1": 2},
        "chunks": {"0": torch.ones(3), "1": torch.ones(1)},
    }
    trees = [
        {
            "params": {"d": {"kernel": STATE["w"], "bias": STATE["layers.0.bias"]}},
            "batch_stats": {"n": {"mean": torch.ones(2)}},
            "step": 3,
        },
        {"layer": {"w": chunks, "h": torch.ones(2).bfloat16()}, "epoch": 1},
    ]
    return [{"m.msgpack": flax_bytes(tree)} for tree in trees]


def mutate_index(content: bytes, dice: Random) -> bytes:
    """The index, of which shards are checked elsewhere."""
    return mutate_json(content, dice)


class Format:
    """The seeds of one format, and how each of its files is mutated: by the beginning of its name."""

    def __init__(self, seeds: list[Files], *, opens: str = "", **by_name: Mutate) -> None:
        self.seeds = seeds
        self.opens = opens
        self.by_name = by_name

    def mutant(self, dice: Random) -> Files:
        """One of the seeds with one of its files changed."""
        files = dict(dice.choice(self.seeds))
        name = dice.choice(list(files)) if dice.random() < 0.4 else next(iter(files))
        change = next((f for key, f in self.by_name.items() if name.startswith(key.replace("_", "."))), mutate)
        files[name] = change(files[name], dice)
        return files

    def target(self, files: Files, folder: Path) -> Path:
        """What is opened of the files that lie in `folder`."""
        return folder if self.opens == "folder" else folder / next(iter(files))


def formats(folder: Path) -> dict[str, Format]:
    """Every format by name; `folder` is for those whose own library writes folders."""
    return {
        "torch-zip": Format(torch_zip(), m=mutate_zip),
        "torch-legacy": Format(torch_legacy(), m=mutate_legacy),
        "torch-tar": Format([{"m.tar": tar(STATE)}], m=mutate_tar),
        "safetensors": Format(safetensors(), m=mutate_safetensors),
        "shards": Format(shards(), opens="folder", model=mutate_index, a=mutate_safetensors, b=mutate_safetensors),
        "npy": Format(numpy(), m=mutate_npy),
        "npz": Format(npz(), m=mutate_zip),
        "gguf": Format(gguf(), m=mutate_gguf),
        "dcp": Format(dcp(folder), opens="folder", _metadata=mutate_pickle, __=mutate_zip),
        "hdf5": Format(hdf5(), m=mutate),
        "onnx": Format(onnx(), m=mutate_protobuf),
        "flax": Format(flax(), m=mutate_msgpack),
    }
