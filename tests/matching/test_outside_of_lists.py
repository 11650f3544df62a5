"""A norm outside of all lists is the one that the other side has outside of them, wherever it is registered."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg
from torchgraft.core.plan import Certainty


def block(*names):
    before, attn, after, mlp = names
    return nn.ModuleDict(
        {before: nn.LayerNorm(8), attn: nn.Linear(8, 24), after: nn.LayerNorm(8), mlp: nn.Linear(8, 32)}
    )


def early(**more):
    """The last norm is registered first, and blocks have the names of one library."""
    parts = {"norm": nn.LayerNorm(8), "blocks": nn.ModuleList(block("norm1", "qkv", "norm2", "fc1") for _ in range(3))}
    return filled(nn.ModuleDict(more | parts | {"head": nn.Linear(8, 5)}))


def late(last, **more):
    """It is registered behind the blocks, which have the names of another."""
    layers = nn.ModuleList(block("layernorm_before", "in_proj", "layernorm_after", "intermediate") for _ in range(3))
    body = nn.ModuleDict({"layer": layers, last: nn.LayerNorm(8)})
    return filled(nn.ModuleDict(more | {"encoder": body, "classifier": nn.Linear(8, 5)}))


def test_a_last_norm_that_is_registered_first_is_no_norm_of_a_block():
    source, target = early(), late("layernorm")
    tg.load(target, source.state_dict())
    assert torch.equal(target["encoder"]["layernorm"].weight, source["norm"].weight)
    assert torch.equal(target["encoder"]["layer"][2]["layernorm_after"].weight, source["blocks"][2]["norm2"].weight)


@pytest.mark.parametrize("last", ["post_norm", "pooled_norm"])
def test_a_norm_of_another_name_is_in_doubt(last):
    with pytest.raises(tg.PlanRefusedError, match="in doubt"):
        tg.load(late(last), early().state_dict())


@pytest.mark.parametrize("blocks", [2, 3])
def test_layers_beside_each_other_are_in_doubt_for_fewer_than_all_blocks_of_a_list(blocks):
    """What is once beside the lists may be meant for all blocks; `conv0` and `conv1` are not."""

    def norm_and(layer):
        return layer, nn.BatchNorm2d(8)

    names = ("conv0", "bn0", "conv1", "bn1")
    layers = (*norm_and(nn.Conv2d(3, 8, 3)), *norm_and(nn.Conv2d(8, 8, 3)))
    file = nn.ModuleDict({**dict(zip(names, layers, strict=True)), "hidden": nn.Linear(8, 9)})
    members = [dict(zip(("conv", "bn"), norm_and(nn.Conv2d(8 if n else 3, 8, 3)), strict=True)) for n in range(blocks)]
    model = nn.ModuleDict({"blocks": nn.ModuleList(map(nn.ModuleDict, members)), "hidden": nn.Linear(8, 9)})
    plan = tg.plan(model, {f"net.{key}": value for key, value in file.state_dict().items()})
    placed = [step for step in plan.steps if step.feeds and step.slot.name.endswith(f"{blocks - 1}.conv.weight")]
    assert all(step.certainty is Certainty.DOUBT for step in placed) is (blocks > 2)
