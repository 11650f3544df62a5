"""A model of experts with as many small tensors as are asked for, its files, and what is done with them."""

from __future__ import annotations

import plan_time
import torch
from torch import nn

PARTS = ("attn.q.weight", "attn.k.weight", "attn.v.weight", "attn.o.weight", "mlp.gate.weight", "mlp.up.weight",
         "mlp.down.weight", "norm1.weight", "norm2.weight", "norm2.bias")  # fmt: skip
WIDTH = 8
COUNT = 100_000


def names(count, prefix=""):
    """Return the names of `count` tensors: experts, in layers of a hundred."""
    blocks = range(count // len(PARTS))
    return [f"{prefix}encoder.layers.{n // 100}.experts.{n % 100}.{part}" for n in blocks for part in PARTS]


def write(stem, count=COUNT):
    """Write `stem`.safetensors and `stem`.pt with random values, under a prefix; return their size in MiB."""
    from safetensors.torch import save_file

    values = torch.randn(count, WIDTH)
    state = {name: value.clone() for name, value in zip(names(count, "module."), values, strict=True)}
    save_file(state, f"{stem}.safetensors")
    torch.save(state, f"{stem}.pt")
    return values.nbytes / 2**20


def model(count=COUNT):
    """Return a model of `count` parameters."""
    root = nn.Module()
    for name in names(count):
        *path, last = name.split(".")
        inner = root
        for part in path:
            if not hasattr(inner, part):
                inner.add_module(part, nn.Module())
            inner = getattr(inner, part)
        inner.register_parameter(last, nn.Parameter(torch.zeros(WIDTH)))
    return root


# What is timed.


def usual(made, state):
    """Strip the prefix and hand over to load_state_dict."""
    made.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})


def torch_loaded(made, path):
    usual(made, torch.load(path, mmap=True, weights_only=True))


def file_loaded(made, path):
    from safetensors.torch import load_file

    usual(made, load_file(path))


def torch_header(_, path):
    torch.load(path, mmap=True, weights_only=True)


def inspected(_, path):
    import torchgraft

    torchgraft.inspect(path)


def planned(*_):
    """Plan for as many tensors under other names throughout; return the processor's seconds, without making the names."""
    return plan_time.measure("renamed", COUNT // 1000)["seconds"]
