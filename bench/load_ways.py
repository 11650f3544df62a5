"""What is loaded into what, and the ways of doing so: ours, the usual ones, and the limit of the machine."""

from __future__ import annotations

import mmap
import os
import threading

import decoder
import numpy as np
import torch
import torchvision
from torch import nn

PIECE = 16 << 20
SHARD = "200MB"
MODELS = {
    "resnet50": torchvision.models.resnet50,
    "vit_l": torchvision.models.vit_l_16,
    "decoder": decoder.decoder,
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

    import torchgraft

    state = {k: torch.randn(v.shape).to(v.dtype) for k, v in touched(on_meta(MODELS[name])).state_dict().items()}
    if name == "decoder":
        (folder / f"{name}.shards").mkdir()
        torchgraft.save(folder / f"{name}.shards" / "model.safetensors", state, shard_size=SHARD)
    else:
        torch.save(state, folder / f"{name}.pt")
        safetensors.torch.save_file(state, folder / f"{name}.safetensors")
    return sum(t.numel() * t.element_size() for t in state.values()) / 2**20


def files_of(path):
    """Return the files that hold the tensors."""
    return sorted(path.glob("*.safetensors")) if path.is_dir() else [path]


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
    """Return a model of the first tenth of the parameters, under their names."""
    whole, root, left = on_meta(MODELS[name]), nn.Module(), 0
    left = sum(p.numel() for p in whole.parameters()) // 10
    for path, tensor in whole.state_dict().items():
        *above, last = path.split(".")
        home = root
        for part in above:
            if not hasattr(home, part):
                home.add_module(part, nn.Module())
            home = getattr(home, part)
        home.register_parameter(last, nn.Parameter(torch.ones(tensor.shape), requires_grad=False))
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
    "float32": lambda name, *_: touched(on_meta(MODELS[name]).float()),
    "tenth": tenth_of,
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


def torch_mapped(model, path):
    model.load_state_dict(torch.load(path, mmap=True, weights_only=True))


def torch_mapped_part(model, path):
    state = torch.load(path, mmap=True, weights_only=True)
    model.load_state_dict({name: state[name] for name in model.state_dict()})


def torch_plain(model, path):
    model.load_state_dict(torch.load(path, weights_only=True))


def safetensors_file(model, path):
    from safetensors.torch import load_file

    for file in files_of(path):
        model.load_state_dict(load_file(file), strict=not path.is_dir())


def safetensors_assigned(model, path):
    """Read into memory of its own, as ours does: a mapping that is read later is no load."""
    from safetensors.torch import load_file

    for file in files_of(path):
        state = {name: value.clone() for name, value in load_file(file).items()}
        model.load_state_dict(state, assign=True, strict=not path.is_dir())


def safetensors_joined(model, path):
    from safetensors.torch import load_file

    state = {}
    for file in files_of(path):
        state.update(load_file(file))
    for name in model.state_dict():
        for joined, parts in (("qkv_proj", ("q_proj", "k_proj", "v_proj")), ("gate_up_proj", ("gate_proj", "up_proj"))):
            if joined in name:
                state[name] = torch.cat([state.pop(name.replace(joined, part)) for part in parts])
    model.load_state_dict(state)


def construct_and_load(factory, path):
    safetensors_file(factory(), path)


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
MAPPED = "torch.load(mmap=True) + load_state_dict"
# (file, what is filled) -> way -> what is timed. The first is the limit.
WAYS = {
    ("pt", "model"): {"limit": limit, MAPPED: torch_mapped, "torch.load + load_state_dict": torch_plain} | OURS,
    ("safetensors", "model"): {"limit": limit, "load_file + load_state_dict": safetensors_file} | OURS,
    ("safetensors", "meta"): {
        "limit": limit,
        "load_file, cloned, assigned": safetensors_assigned,
        "torchgraft.load": ours,
    },
    ("safetensors", "build"): {
        "limit": limit,
        "constructor + load_file": construct_and_load,
        "torchgraft.build": ours_build,
    },
    ("pt", "tenth"): {"limit": limit, MAPPED: torch_mapped_part} | OURS,
    ("shards", "model"): {"limit": limit, "load_file + load_state_dict": safetensors_file} | OURS,
    ("shards", "meta"): {"limit": limit, "load_file, cloned, assigned": safetensors_assigned, "torchgraft.load": ours},
    ("shards", "joined"): {"limit": limit, "load_file + cat + load_state_dict": safetensors_joined} | OURS,
    ("shards", "float32"): {"limit": limit, "load_file + load_state_dict": safetensors_file} | OURS,
}
ONE_FILE = [case for case in WAYS if case[0] != "shards"]
CASES = {"resnet50": ONE_FILE, "vit_l": ONE_FILE, "decoder": [case for case in WAYS if case[0] == "shards"]}
