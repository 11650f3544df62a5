"""One of several processes that hold a model together on a device: load, and compare with what one process gets.

python spread_over_devices.py RANK SIZE BACKEND STORE WAY FILE
"""

import sys

import torch
import torch.distributed as dist
from device_models import ASKED, net
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import torchgraft as tg


def spread(model, mesh, way):
    if way == "fsdp":
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    plan = dict.fromkeys(("q", "k", "v", "up"), ColwiseParallel()) | {"down": RowwiseParallel()}
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    return model


def part_of(whole, value):
    """Return this process's part of a whole tensor, placed as `value` is along one dimension of processes."""
    (how,) = value.placements
    if isinstance(how, Replicate):
        return whole
    assert isinstance(how, Shard)
    parts = torch.chunk(whole, value.device_mesh.size(), how.dim)
    rank = value.device_mesh.get_local_rank()
    return parts[rank] if rank < len(parts) else whole.narrow(how.dim, 0, 0)


def main():
    rank, size, backend, store, way, file = sys.argv[1:]
    torch.cuda.set_device(0)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=int(rank), world_size=int(size))
    mesh = init_device_mesh("cuda", (int(size),))
    asked = {key: ASKED[key] for key in ("permute", "in_channels")}
    wanted = net()
    tg.load(wanted, file, **asked)
    for where in ("cuda", "meta"):
        model = net(where)
        model.conv.to(memory_format=torch.contiguous_format)  # fully_shard takes no other
        model = spread(model, mesh, way)
        report = tg.load(model, file, device="cuda", **asked)
        assert all(check.passed for check in report.checks)
        for name, value in wanted.state_dict().items():
            found = model.state_dict()[name]
            is_spread = isinstance(found, DTensor)
            mine, part = (found.to_local(), part_of(value, found)) if is_spread else (found, value)
            assert mine.is_cuda, name
            assert torch.equal(mine.cpu(), part), (where, name)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
