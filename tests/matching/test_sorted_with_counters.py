"""Files sorted by name: seen as such also where counters of batch norms lie between weights, and their order tells nothing."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty

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


def rows(*names):
    """Return three blocks of modules of these names: `fc` widens, all others are norms."""
    made = [{name: nn.Linear(WIDTH, 9) if name == "fc" else nn.LayerNorm(WIDTH) for name in names} for _ in range(3)]
    return nn.ModuleDict({"blocks": nn.ModuleList(map(nn.ModuleDict, made))})


def test_where_the_alphabet_puts_a_norm_in_its_block_says_nothing_of_what_it_is():
    file = filled(rows("alpha", "fc", "omega")).state_dict()
    plan = tg.plan(rows("entry", "fc", "outlet"), {name: file[name] for name in sorted(file)})
    norms = [step for step in plan.steps if "fc" not in step.slot.name]
    assert {step.certainty for step in norms if step.feeds} == {Certainty.DOUBT}


def units(first, second):
    """Return two blocks of an output and two units; the first block has only the second of these."""
    blocks = nn.ModuleList()
    for at in range(3):
        unit = [named(conv1=nn.Conv2d(WIDTH, WIDTH, 3), conv2=nn.Conv2d(WIDTH, WIDTH, 3)) for _ in range(2)]
        names = {second: unit[1]} if at == 0 else {first: unit[0], second: unit[1]}
        blocks.append(nn.ModuleDict({"out": nn.Conv2d(WIDTH, WIDTH, 1), **names}))
    return nn.ModuleDict({"fusion": blocks})


def test_nor_does_it_of_units_that_the_model_counts():
    file = filled(units("residual_unit", "main_unit")).state_dict()
    plan = tg.plan(
        units("residual_layer1", "residual_layer2"), {name: file[name] for name in sorted(file)}, on_doubt="take"
    )
    for step in plan.steps:
        meant = step.slot.name.replace("residual_layer1", "residual_unit").replace("residual_layer2", "main_unit")
        assert step.feeds[0].key == meant or step.certainty is Certainty.DOUBT
