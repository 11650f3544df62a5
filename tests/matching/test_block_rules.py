"""What orderly blocks of a list tell about the block that holds a branch more."""

import pytest
import torch
from torch import nn

import torchgraft as tg


def layer(width, out):
    return nn.Sequential(nn.Conv2d(width, out, 1), nn.BatchNorm2d(out))


def first_named_by_letters(width, out):
    """The shortcut is registered before the others."""
    parts = {"proj": layer(width, out)} if width != out else {}
    return nn.ModuleDict(
        parts | {"f": nn.ModuleDict({"a": layer(width, out), "b": layer(out, out), "c": layer(out, out)})}
    )


def last_named_by_numbers(width, out):
    """The shortcut is registered after the others."""
    parts = {"conv1": layer(width, out), "conv2": layer(out, out), "conv3": layer(out, out)}
    return nn.ModuleDict(parts | ({"down": layer(width, out)} if width != out else {}))


def net(block, names):
    stages, width = {}, 4
    for n, out in enumerate((8, 16), 1):
        members = [block(width if not at else out, out) for at in range(3)]
        stages[f"{names[0]}{n}"] = nn.ModuleDict({f"{names[1]}{at}": member for at, member in enumerate(members)})
        width = out
    model = nn.ModuleDict(stages)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.normal_()
    return model


PLACES = {"proj": "down", "f.a": "conv1", "f.b": "conv2", "f.c": "conv3"}


@pytest.mark.parametrize("turned", [False, True])
def test_the_first_block_of_a_stage_is_read_as_the_others_are(turned):
    ours, theirs = net(first_named_by_letters, ("block", "b")), net(last_named_by_numbers, ("s", "u"))
    source, target = (theirs, ours) if turned else (ours, theirs)
    plan = tg.plan(target, source.state_dict(), on_doubt="take")
    for step in plan.steps:
        if step.slot.name.endswith("num_batches_tracked"):
            continue
        letters, numbers = (step.slot.name, step.feeds[0].key) if turned else (step.feeds[0].key, step.slot.name)
        for old, new in PLACES.items():
            letters = letters.replace(f".{old}.", f".{new}.")
        assert letters.replace("block", "s").replace(".b", ".u", 1) == numbers
