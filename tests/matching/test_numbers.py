"""Layers that one library counts from zero and another from one."""

import pytest
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


def net(first, names):
    """Blocks of three convolutions with norms of equal width: only the number in the name tells these apart."""

    def block():
        parts = {}
        for at in range(3):
            parts[f"{names[0]}{first + at}"] = nn.Conv2d(8, 8, 1 + 2 * at)
            parts[f"{names[1]}{first + at}"] = nn.BatchNorm2d(8)
        return nn.ModuleDict(parts)

    return nn.ModuleDict({"stem": nn.Conv2d(3, 8, 1), "blocks": nn.ModuleList(block() for _ in range(2))})


@pytest.mark.parametrize("names", [("conv", "bn"), ("_c", "norm")])
@pytest.mark.parametrize("first", [0, 1])
def test_the_first_is_the_first_whatever_it_is_called(names, first):
    source, target = net(first, ("conv", "bn")), net(1 - first, names)
    plan = tg.plan(target, source.state_dict(), on_doubt="take")
    for step in plan.steps:
        if not step.feeds or step.slot.name.startswith("stem"):
            continue
        ours, theirs = (int(path.split(".")[2][-1]) for path in (step.feeds[0].key, step.slot.name))
        assert ours - first == theirs - (1 - first) or step.certainty is not Certainty.CERTAIN
        if not step.slot.name.endswith("num_batches_tracked"):
            assert ours - first == theirs - (1 - first)
