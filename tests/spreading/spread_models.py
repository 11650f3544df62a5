"""A small network of many kinds of layers, ways to spread it, and a checkpoint of another layout."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

ASKED = {"fresh": ["extra"], "permute": {"blocks.*.turned.weight": (1, 0)}}  # what `net` and `checkpoint` need


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
        self.norm = nn.BatchNorm1d(6)
        self.up = nn.Linear(6, 10)
        self.down = nn.Linear(10, 6)
        self.turned = nn.Linear(7, 5, bias=False)

    def forward(self, x):
        return self.down(self.up(self.norm(self.v(x))))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.conv = nn.Conv2d(3, 4, 2)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight
        self.extra = nn.Linear(3, 3)

    def forward(self, x):
        return x


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def checkpoint():
    """Return values for `net` with fused q, k, v, turned matrices, half precision and another form of the convolution."""
    g = torch.Generator().manual_seed(5)
    state = net().state_dict()
    state = {
        n: torch.randn(v.shape, generator=g) if v.is_floating_point() else torch.tensor(7) for n, v in state.items()
    }
    for i in range(2):
        for part in ("weight", "bias"):
            state[f"blocks.{i}.qkv.{part}"] = torch.cat([state.pop(f"blocks.{i}.{c}.{part}") for c in "qkv"])
        state[f"blocks.{i}.turned.weight"] = state[f"blocks.{i}.turned.weight"].t().contiguous()
        state[f"blocks.{i}.up.weight"] = state[f"blocks.{i}.up.weight"].bfloat16()
    del state["extra.weight"], state["extra.bias"], state["head.weight"]
    return state


def by_fsdp(model, size):
    mesh = init_device_mesh("cpu", (size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def by_fsdp_and_copies(model, size):
    """Shard over two processes, and copy that over the others (HSDP)."""
    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("copies", "shards"))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def by_columns_and_rows(model, size):
    mesh = init_device_mesh("cpu", (size,))
    plan = {
        "q": ColwiseParallel(),
        "k": ColwiseParallel(),
        "v": ColwiseParallel(),
        "up": ColwiseParallel(),
        "down": RowwiseParallel(),
    }
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    return model


def by_both(model, size):
    mesh = init_device_mesh("cpu", (size // 2, 2), mesh_dim_names=("data", "model"))
    for block in model.blocks:
        parallelize_module(
            block, mesh["model"], {"q": ColwiseParallel(), "up": ColwiseParallel(), "down": RowwiseParallel()}
        )
        fully_shard(block, mesh=mesh["data"])
    return fully_shard(model, mesh=mesh["data"])


def by_last_dimension(model, size):
    """Shard every parameter along its last dimension, replicate biases."""
    mesh = init_device_mesh("cpu", (size,))
    for module in model.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            how = Shard(value.ndim - 1) if value.ndim > 1 else Replicate()
            spread = distribute_tensor(value.detach(), mesh, [how])
            setattr(module, name, nn.Parameter(spread))
    model.head.weight = model.embed.weight
    return model


WAYS = {
    "fsdp": by_fsdp,
    "copies": by_fsdp_and_copies,
    "tensor parallel": by_columns_and_rows,
    "both": by_both,
    "last dimension": by_last_dimension,
}


def whole(model):
    """Return the state dict with whole tensors. Collective."""
    return {n: v.full_tensor() if isinstance(v, DTensor) else v for n, v in model.state_dict().items()}


def local_bytes(model):
    """Return the bytes of every tensor that this process holds."""
    out = {}
    for name, value in model.state_dict().items():
        mine = value.to_local() if isinstance(value, DTensor) else value
        out[name] = mine.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return out


def same(found, wanted):
    """Compare two state dicts bit for bit."""
    assert set(found) == set(wanted)
    assert all(torch.equal(found[n], wanted[n]) and found[n].dtype == wanted[n].dtype for n in wanted)
