"""No process holds the model whole: what a load takes beside a process's shards, and what it reads, is little and stated."""

import gc
import re
from pathlib import Path

import pytest
import torch
from spread_models import by_columns_and_rows, by_fsdp
from torch import nn

import torchgraft as tg
from torchgraft.applying.memory_estimate import KEPT, THREADS_USE

pytestmark = [
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc"),
]
WIDE = 512
MIB = 1 << 20


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDE, WIDE, bias=False) for _ in range(3))
        self.up = nn.Linear(WIDE, 4 * WIDE, bias=False)
        self.down = nn.Linear(4 * WIDE, WIDE, bias=False)


class Deep(nn.Module):
    """11 MiB of weights a block."""

    def __init__(self, blocks=6):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))


def fused(model):
    """Return a checkpoint with q, k and v fused, and a part in another type."""
    state = {name: torch.randn(value.shape) for name, value in model.state_dict().items()}
    for i in range(len(model.blocks)):
        state[f"blocks.{i}.qkv.weight"] = torch.cat([state.pop(f"blocks.{i}.{c}.weight") for c in "qkv"])
        state[f"blocks.{i}.up.weight"] = state[f"blocks.{i}.up.weight"].bfloat16()
    return state


def fact(path, name):
    return int(re.search(rf"^{name}:\s*(\d+)", Path(path).read_text(), re.MULTILINE)[1])


def load_measured(rank, way, size, path):
    """Return by how many bytes memory grew, how many were read, and what the plan said before."""
    with torch.device("meta"):
        model = way(Deep(), size)
    model.to_empty(device="cpu")
    for value in model.parameters():
        nn.init.ones_(value)
    first = fused(Deep(1))
    tg.load(way(Deep(1), size), first)  # what is imported the first time doesn't count
    said = tg.plan(model, path).memory.total
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, read = fact("/proc/self/status", "VmRSS"), fact("/proc/self/io", "rchar")
    report = tg.load(model, path)
    grown = (fact("/proc/self/status", "VmHWM") - before) << 10
    return grown, fact("/proc/self/io", "rchar") - read, said, report.cost.bytes_read


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("way", [by_fsdp, by_columns_and_rows])
def test_each_takes_a_few_megabytes_and_reads_its_share(way, size, two, four, tmp_path):
    torch.save(fused(Deep()), tmp_path / "c.pt")
    stored = (tmp_path / "c.pt").stat().st_size
    for grown, read, said, told in {2: two, 4: four}[size].run(load_measured, way, size, tmp_path / "c.pt"):
        assert grown < said + 4 * MIB  # what the system counts beside
        assert said <= KEPT + THREADS_USE  # of a model of 66 MiB
        assert told < 1.02 * stored / size
        assert read < 2.1 * told  # once to look at all of it, once into its place
