"""Training goes on with a model that several processes hold together: optimizer state by shards, nothing held in part."""

import pytest
import torch
from spread_models import WAYS, net, same, whole
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import torchgraft as tg

pytestmark = pytest.mark.xdist_group("processes")


def step(model, optimizer):
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 1.0 + number)
    optimizer.step()


def trained(kind):
    """Return a model, its optimizer after a step in which each element got another gradient, and what was saved of them."""
    model = net(seed=3)
    optimizer = kind(model.parameters(), lr=0.01)
    for parameter in model.parameters():
        parameter.grad = torch.arange(1.0, parameter.numel() + 1).reshape(parameter.shape)
    optimizer.step()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    return model, optimizer, {name: {**part} for name, part in saved.items()}


def go_on(_, way, size):
    model, optimizer, saved = trained(torch.optim.AdamW)
    spread = WAYS[way](net(seed=1), size)
    report = tg.load(spread, saved)
    ours = torch.optim.AdamW(spread.parameters(), lr=0.01)
    carried = tg.optimizer_state(spread, ours, report, saved)
    for old, new in zip(model.parameters(), spread.parameters(), strict=True):
        for name, value in ours.state[new].items():
            assert isinstance(value, DTensor) == (isinstance(new, DTensor) and name != "step")
            gathered = value.full_tensor() if isinstance(value, DTensor) else value
            assert torch.equal(gathered, optimizer.state[old][name])
    step(model, optimizer)
    step(spread, ours)
    same(whole(spread), model.state_dict())
    return len(carried.carried), len(carried.fresh)


@pytest.mark.parametrize(("way", "size"), [("fsdp", 2), ("tensor parallel", 2), ("last dimension", 2), ("both", 4)])
def test_optimizer_state_is_shared_out_as_the_parameters_are(way, size, two, four):
    count = len(list(net().parameters()))
    assert (two if size == 2 else four).run(go_on, way, size) == [(count, 0)] * size


def refused(_):
    """Return what is said of state that isn't of its parameter's shape, and of a table of which a part is to be held."""
    _, _, saved = trained(torch.optim.Adafactor)
    model = WAYS["fsdp"](net(seed=1), 2)
    report = tg.load(model, saved)
    optimizer = torch.optim.Adafactor(model.parameters())
    said = []
    with pytest.raises(tg.UsageError) as caught:
        tg.optimizer_state(model, optimizer, report, saved)
    said.append(str(caught.value))
    assert not optimizer.state
    table = nn.Sequential(nn.Embedding(9, 2))
    fully_shard(table, mesh=init_device_mesh("cpu", (2,)))
    report = tg.load(table, nn.Sequential(nn.Embedding(7, 2)).state_dict(), grow_rows=["0.weight"])
    with pytest.raises(tg.UsageError) as caught:
        tg.freeze(table, report, partly="hold")
    said.append(str(caught.value))
    assert table[0].weight.requires_grad
    return said


def test_what_cannot_be_shared_out_or_held_is_refused(two):
    for state, part in two.run(refused):
        assert "start this optimizer fresh" in state
        assert "0.weight is spread over processes, where no part of it can be held" in part
