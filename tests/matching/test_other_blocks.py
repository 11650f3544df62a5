"""A block of another kind among attention blocks: every block behind it gets another number, and keeps its weights."""

import copy

import pytest
import torch
from torch import nn

import torchgraft as tg

WIDTH, DEPTH = 8, 4


def packed():
    return nn.MultiheadAttention(WIDTH, 2)


def fused():
    return nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})


def apart():
    return nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("q_proj", "k_proj", "v_proj", "out_proj")})


class Net(nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.stem = nn.Conv2d(3, WIDTH, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "norm1": nn.LayerNorm(WIDTH), "attn": attention(), "norm2": nn.LayerNorm(WIDTH),
                "mlp": nn.Sequential(nn.Linear(WIDTH, 20), nn.GELU(), nn.Linear(20, WIDTH)),
            })
            for _ in range(DEPTH)
        )  # fmt: skip
        self.head = nn.Linear(WIDTH, 5)


def adapter():
    return nn.ModuleDict({"down": nn.Linear(WIDTH, 3), "up": nn.Linear(3, WIDTH)})


def with_adapter(net, at):
    """Return a copy of a network with an adapter before block `at`, and the names that the old tensors have in it."""
    grown = copy.deepcopy(net)
    grown.blocks.insert(at, adapter())
    for value in grown.parameters():
        nn.init.normal_(value)
    names = {}
    for name in net.state_dict():
        parts = name.split(".")
        if parts[0] == "blocks" and int(parts[1]) >= at:
            parts[1] = str(int(parts[1]) + 1)
        names[name] = ".".join(parts)
    return grown, names


@pytest.mark.parametrize("at", range(DEPTH + 1))
@pytest.mark.parametrize("attention", [packed, fused, apart])
def test_blocks_move_by_one_where_another_was_put_in_and_back_where_it_is_taken_out(attention, at):
    net = Net(attention)
    grown, names = with_adapter(net, at)
    file = {key: torch.rand_like(value) for key, value in net.state_dict().items()}
    report = tg.load(grown, file)
    assert {s.slot.name for s in report.plan.fresh} == set(grown.state_dict()) - set(names.values())
    assert all(torch.equal(grown.state_dict()[name], file[key]) for key, name in names.items())

    file = {key: torch.rand_like(value) for key, value in grown.state_dict().items()}
    assert not tg.load(net, file).plan.fresh
    assert all(torch.equal(net.state_dict()[key], file[name]) for key, name in names.items())
