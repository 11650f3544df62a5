"""Layers that one library counts from zero and another from one."""

import pytest
import torch
from filling import filled
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


def normed(*names):
    """Blocks of norms of one width around two layers, the first two norms before these."""
    ahead, first, behind = names

    def block():
        parts = {ahead: nn.LayerNorm(8), first: nn.LayerNorm(8), "qkv": nn.Linear(8, 24), "proj": nn.Linear(24, 8)}
        return nn.ModuleDict(parts | {behind: nn.LayerNorm(8)})

    return filled(nn.ModuleDict({"stem": nn.Conv2d(3, 8, 1), "blocks": nn.ModuleList(block() for _ in range(3))}))


@pytest.mark.parametrize("ahead", ["norm0", "ln0"])
def test_a_norm_before_the_first_takes_no_number_of_it(ahead):
    source, target = normed("pre_norm", "norm1", "norm2"), normed(ahead, "norm1", "norm2")
    tg.load(target, {f"model.{key}": value for key, value in source.state_dict().items()})
    for ours, theirs in (("pre_norm", ahead), ("norm1", "norm1"), ("norm2", "norm2")):
        assert torch.equal(target["blocks"][1][theirs].weight, source["blocks"][1][ours].weight)


@pytest.mark.parametrize("back", [False, True])
def test_a_lone_first_elsewhere_keeps_no_row_from_being_counted_from_one(back):
    def blocks(first):
        def block():
            convs = {"conv1": nn.Conv2d(8, 8, 3), "conv2": nn.Conv2d(8, 8, 3)}
            return nn.ModuleDict(convs | {f"bn{first + at}": nn.BatchNorm2d(8) for at in range(2)})

        return nn.ModuleDict({f"bn{first}": nn.BatchNorm2d(8), "layer": nn.ModuleList(block() for _ in range(2))})

    file, model = (blocks(first) for first in ((0, 1) if back else (1, 0)))
    plan = tg.plan(model, dict(sorted(file.state_dict().items())))
    norms = [step for step in plan.steps if step.slot.name.startswith("layer") and ".bn" in step.slot.name]
    assert {step.slot.name: step.feeds[0].key for step in norms if step.certainty is not Certainty.DOUBT} == {
        f"layer.{n}.bn{at + back}.{role}": f"layer.{n}.bn{at + 1 - back}.{role}"
        for n in range(2)
        for at in range(2)
        for role in nn.BatchNorm2d(8).state_dict()
    }
