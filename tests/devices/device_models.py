"""A network and a checkpoint of another layout, in every form that one may have, and what to compare."""

from __future__ import annotations

import torch
from torch import nn

import torchgraft as tg

ASKED = {
    "fresh": ["extra"],
    "permute": {"blocks.*.turned.weight": (1, 0)},
    "in_channels": {"conv.weight": "repeat"},
    "grow_rows": ["embed.weight"],
}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(60, 60) for _ in range(3))
        self.norm = nn.BatchNorm1d(60)
        self.up = nn.Linear(60, 100)
        self.down = nn.Linear(100, 60)
        self.turned = nn.Linear(70, 50, bias=False)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(self.norm(self.q(x) + self.k(x) * self.v(x)))))


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("numbers", torch.arange(5.0), persistent=False)

    def reset_parameters(self):
        torch.arange(5.0, out=self.numbers)


class Net(nn.Module):
    """Rows that grow, ties, a form of memory of its own, integers, halves, and what the checkpoint has not."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(110, 60)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.conv = nn.Conv2d(6, 40, 3).to(memory_format=torch.channels_last)
        self.halves = nn.Linear(60, 44).bfloat16()
        self.head = nn.Linear(60, 110, bias=False)
        self.head.weight = self.embed.weight
        self.extra = nn.Linear(30, 20)
        self.table = Table()

    def forward(self, x):
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x) + self.halves(x.bfloat16()).float().mean()


def net(where="cpu", seed=1):
    torch.manual_seed(seed)
    with torch.device("meta" if where == "meta" else "cpu"):
        made = Net().eval()
    return made if where == "meta" else made.to(where)


def checkpoint():
    """Return values with q, k, v fused, matrices turned, fewer rows and channels, and other types."""
    g = torch.Generator().manual_seed(5)
    state = {
        n: torch.randn(v.shape, generator=g) if v.is_floating_point() else torch.tensor(7)
        for n, v in net().state_dict().items()
        if not n.startswith(("extra", "head"))
    }
    for i in range(2):
        for part in ("weight", "bias"):
            state[f"blocks.{i}.qkv.{part}"] = torch.cat([state.pop(f"blocks.{i}.{c}.{part}") for c in "qkv"])
        state[f"blocks.{i}.turned.weight"] = state[f"blocks.{i}.turned.weight"].t().contiguous()
        state[f"blocks.{i}.up.weight"] = state[f"blocks.{i}.up.weight"].half()
        state[f"blocks.{i}.norm.running_var"].abs_()
    state["embed.weight"] = state["embed.weight"][:90].clone()
    state["conv.weight"] = state["conv.weight"][:, :3].clone()
    return state


def as_safetensors(state, folder):
    tg.save(folder / "a.safetensors", state)
    return folder / "a.safetensors"


def as_zip(state, folder):
    torch.save(state, folder / "a.pt")
    return folder / "a.pt"


def as_zip_of_the_device(state, folder):
    torch.save({n: v.cuda() for n, v in state.items()}, folder / "b.pt")
    return folder / "b.pt"


def as_old_file(state, folder):
    torch.save({n: v.cuda() for n, v in state.items()}, folder / "c.pt", _use_new_zipfile_serialization=False)
    return folder / "c.pt"


def as_shards(state, folder):
    (folder / "shards").mkdir()
    tg.save(folder / "shards" / "model.safetensors", state, shard_size="100KB")
    return folder / "shards"


def as_dict(state, folder):
    return dict(state)


def as_dict_on_the_device(state, folder):
    return {n: v.cuda() for n, v in state.items()}


FORMS = {
    one.__name__: one
    for one in (
        as_safetensors, as_zip, as_zip_of_the_device, as_old_file, as_shards, as_dict, as_dict_on_the_device,
    )
}  # fmt: skip


def alike(model, wanted):
    """Compare with what a load on the CPU gave, bit for bit."""
    found = {n: v.detach().cpu() for n, v in model.state_dict().items()}
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


def facts(model):
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {
        n: (id(t), t.data_ptr(), t.stride(), t.dtype, t.requires_grad, t.detach().cpu().clone())
        for n, t in tensors.items()
    }


def untouched(model, before):
    now = facts(model)
    for name, fact in before.items():
        assert now[name][:-1] == fact[:-1], name
        assert torch.equal(now[name][-1], fact[-1]), name
