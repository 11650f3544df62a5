"""What is loaded into what, and the ways of doing so: ours, the usual ones, and the limit of the machine."""

from __future__ import annotations

import mmap
import os
import threading

import decoder
import many_keys
import numpy as np
import peers
import torch
import torchvision
from peers import files_of
from torch import nn

PIECE = 16 << 20
SHARD = "200MB"
MODELS = {
    "resnet50": torchvision.models.resnet50,
    "vit_l": torchvision.models.vit_l_16,
    "decoder": decoder.decoder,
    "keys": many_keys.model,
}


def on_meta(make):
    with torch.device("meta"):
        return make()


def touched(model):
    """Return the model with memory of its own, touched; initialising it would take far longer."""
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(1)
    return model


def write(name, folder):
    """Write the model's files with random values; return its size in MiB."""
    import safetensors.torch

    if name == "keys":
        return many_keys.write(folder / name)
    if name == "decoder":
        write_shards(lambda: decoder.decoder(joined=True), folder / f"{name}.fused")
        return write_shards(decoder.decoder, folder / f"{name}.shards")
    state = random_values(MODELS[name])
    torch.save(state, folder / f"{name}.pt")
    safetensors.torch.save_file(state, folder / f"{name}.safetensors")
    return mib(state)


def write_shards(make, folder):
    """Write a folder of shards with random values; return its size in MiB."""
    import torchgraft

    folder.mkdir()
    state = random_values(make)
    torchgraft.save(folder / "model.safetensors", state, shard_size=SHARD)
    return mib(state)


def random_values(make):
    return {k: torch.randn(v.shape).to(v.dtype) for k, v in touched(on_meta(make)).state_dict().items()}


def mib(state):
    return sum(t.numel() * t.element_size() for t in state.values()) / 2**20


# What is made ready before the clock runs.


def buffer_for(_, path, case):
    """Return memory for all files, or for the part of one that is wanted: touched, or fresh where the model has none."""
    size = sum(p.stat().st_size for p in files_of(path))
    size = size // 10 if case[1] == "tenth" else size
    if case[1] not in ("meta", "build"):
        return np.ones(size, np.uint8)
    fresh = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    fresh.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(fresh, np.uint8)


def tenth_of(name, *_):
    """Return a model of the first tenth of the parameters, under their names; buffers go with them, as parameters."""
    whole, root, left = on_meta(MODELS[name]), nn.Module(), 0
    left = sum(p.numel() for p in whole.parameters()) // 10
    for path, tensor in whole.state_dict().items():
        *above, last = path.split(".")
        home = root
        for part in above:
            if not hasattr(home, part):
                home.add_module(part, nn.Module())
            home = getattr(home, part)
        home.register_parameter(last, nn.Parameter(torch.ones_like(tensor, device="cpu"), requires_grad=False))
        left -= tensor.numel()
        if left < 0:
            break
    return root


PREPARED = {
    "limit": buffer_for,
    "model": lambda name, *_: touched(on_meta(MODELS[name])),
    "meta": lambda name, *_: on_meta(MODELS[name]),
    "build": lambda name, *_: MODELS[name],
    "joined": lambda *_: touched(on_meta(lambda: decoder.decoder(joined=True))),
    "parted": lambda name, *_: touched(on_meta(MODELS[name])),
    "float32": lambda name, *_: touched(on_meta(MODELS[name]).float()),
    "float16": lambda name, *_: touched(on_meta(MODELS[name]).half()),
    "tenth": tenth_of,
    "busy": lambda name, *_: touched(on_meta(MODELS[name])),
    "stripped": lambda name, *_: MODELS[name](),
    "header": lambda *_: None,
    "renamed": lambda *_: None,
}


# What is timed.


def limit(buffer, path):
    """Read as much as `buffer` holds by two threads."""
    view, middle, tasks = memoryview(buffer), len(buffer) // 2, ([], [])
    at = 0
    for file in files_of(path):
        handle, size = os.open(file, os.O_RDONLY), min(file.stat().st_size, len(view) - at)
        for skip in range(0, size, PIECE):
            tasks[at + skip >= middle].append((handle, at + skip, min(PIECE, size - skip), skip))
        at += size

    def read(some):
        for handle, to, size, skip in some:
            os.preadv(handle, [view[to : to + size]], skip)

    helper = threading.Thread(target=read, args=(tasks[0],))
    helper.start()
    read(tasks[1])
    helper.join()


def ours(model, path):
    import torchgraft

    torchgraft.load(model, path)


def ours_bare(model, path):
    import torchgraft

    torchgraft.load(model, path, undo="none")


def ours_build(factory, path):
    import torchgraft

    torchgraft.build(factory, path)


OURS = {"torchgraft.load": ours, "torchgraft.load(undo='none')": ours_bare}
TORCH = {
    "torch.load(mmap=True) + load_state_dict": peers.torch_mapped,
    "torch.load + load_state_dict": peers.torch_plain,
}
FILE = {"load_file + load_state_dict": peers.safetensors_file}
OPENED = {"safe_open + copy_": peers.safetensors_loop}
OWNED = {"load_file, cloned, assigned": peers.safetensors_assigned}
LIMIT = {"limit": limit}
# (file, what is filled) -> way -> what is timed. The limit comes first, where there is one.
WAYS = {
    ("pt", "model"): LIMIT | TORCH | OURS,
    ("safetensors", "model"): LIMIT | FILE | OPENED | OURS,
    ("safetensors", "meta"): LIMIT | OWNED | {"torchgraft.load": ours},
    ("safetensors", "build"): LIMIT
    | {"constructor + load_file": peers.construct_and_load, "torchgraft.build": ours_build},
    ("pt", "tenth"): LIMIT | {"torch.load(mmap=True) + load_state_dict": peers.torch_mapped_part} | OURS,
    ("safetensors", "busy"): LIMIT | FILE | OURS,
    ("shards", "model"): LIMIT | FILE | peers.SHARDS | OURS,
    ("shards", "meta"): LIMIT | OWNED | {"torchgraft.load": ours},
    ("shards", "joined"): LIMIT
    | {"load_file + cat + load_state_dict": peers.safetensors_joined}
    | peers.CONVERTED["joined"]
    | OURS,
    ("fused", "parted"): LIMIT
    | {"load_file + split + load_state_dict": peers.safetensors_parted}
    | peers.CONVERTED["parted"]
    | OURS,
    ("shards", "float32"): LIMIT | FILE | OURS,
    ("shards", "float16"): LIMIT | FILE | OURS,
    ("pt", "stripped"): {"torch.load + load_state_dict": many_keys.torch_loaded, "torchgraft.load": ours},
    ("safetensors", "stripped"): {"load_file + load_state_dict": many_keys.file_loaded, "torchgraft.load": ours},
    ("pt", "header"): {"torch.load(mmap=True)": many_keys.torch_header, "torchgraft.inspect": many_keys.inspected},
    ("pt", "renamed"): {"torchgraft.plan": many_keys.planned},
}
KEYS = ("stripped", "header", "renamed")
SHARDED = ("shards", "fused")
CASES = {
    "resnet50": [case for case in WAYS if case[0] not in SHARDED and case[1] not in (*KEYS, "busy")],
    "vit_l": [case for case in WAYS if case[0] not in SHARDED and case[1] not in KEYS],
    "decoder": [case for case in WAYS if case[0] in SHARDED],
    "keys": [case for case in WAYS if case[1] in KEYS],
}
