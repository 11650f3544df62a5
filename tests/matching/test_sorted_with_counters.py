"""A file sorted by name is seen as one also where counters of batch norms, of another type, lie between its weights."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg

WIDTH = 6


def named(**parts):
    return nn.ModuleDict(parts)


def scale():
    layer = nn.Module()
    layer.gamma = nn.Parameter(torch.ones(WIDTH, 1, 1))
    return layer


def block():
    """Return a block whose parts are registered in another order than that of their names."""
    mixer = named(
        norm=named(identity=nn.BatchNorm2d(WIDTH)), mixer=named(identity=nn.BatchNorm2d(WIDTH)), layer_scale=scale()
    )
    return named(
        token_mixer=mixer, mlp=named(fc1=nn.Conv2d(WIDTH, 9, 1), fc2=nn.Conv2d(9, WIDTH, 1)), layer_scale=scale()
    )


def net(*, inserted):
    proj = [nn.Linear(WIDTH, 9), nn.Linear(9, WIDTH)]
    if inserted:
        proj.insert(1, nn.Linear(5, 4))
    return filled(
        nn.ModuleDict(
            {"stages": nn.ModuleList([named(blocks=nn.Sequential(block(), block())), named(proj=nn.Sequential(*proj))])}
        )
    )


@pytest.mark.parametrize("order", [list, sorted], ids=["as registered", "sorted by name"])
def test_norms_keep_their_names_where_a_layer_was_inserted_elsewhere(order):
    file, model = net(inserted=False).state_dict(), net(inserted=True)
    report = tg.load(model, {name: file[name] for name in order(file)})
    assert [step.slot.name for step in report.plan.fresh] == ["stages.1.proj.1.weight", "stages.1.proj.1.bias"]
    there = {
        name.replace("proj.2", "proj.1"): value for name, value in model.state_dict().items() if "proj.1" not in name
    }
    assert all(torch.equal(file[name], value) for name, value in there.items())
