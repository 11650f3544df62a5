"""A list of layers may be cut into chunks on either side, in whatever order the file has its tensors."""

import random

import pytest
import torch
from torch import nn

import torchgraft as tg


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(4)
        self.norm2 = nn.LayerNorm(4)
        self.qkv = nn.Linear(4, 12)


def tower(chunks, depth=8):
    each = depth // max(chunks, 1)
    blocks = [Block() for _ in range(depth)]
    if chunks:
        blocks = [nn.ModuleList([nn.Identity()] * at + blocks[at : at + each]) for at in range(0, depth, each)]
    return nn.ModuleDict({"embed": nn.Conv2d(3, 4, 2), "blocks": nn.ModuleList(blocks), "norm": nn.LayerNorm(4)})


def layers(state, chunks):
    """The tensors by the name that they have in a list without chunks."""
    if not chunks:
        return state
    return {
        ".".join([parts[0], *parts[2:]]) if (parts := name.split("."))[0] == "blocks" else name: value
        for name, value in state.items()
    }


@pytest.mark.parametrize("ours", [0, 1, 2, 4])
@pytest.mark.parametrize("theirs", [0, 2, 4, 8])
@pytest.mark.parametrize("prefix", ["", "teacher.backbone."])
@pytest.mark.parametrize("order", ["as saved", "sorted", "shuffled"])
def test_layers_keep_their_number_in_the_whole_list(ours, theirs, prefix, order):
    state = tower(theirs).state_dict()
    keys = sorted(state) if order == "sorted" else list(state)
    if order == "shuffled":
        random.Random(7).shuffle(keys)  # noqa: S311  # no secrets
    model = tower(ours)
    report = tg.load(model, {prefix + key: state[key] for key in keys})
    loaded, wanted = layers(model.state_dict(), ours), layers(state, theirs)
    assert all(torch.equal(loaded[name], value) for name, value in wanted.items())
    assert {step.certainty.value for step in report.plan.steps} == {"certain"}


def test_stages_whose_blocks_are_counted_anew_are_no_chunks():
    def stages(sizes):
        return nn.ModuleDict({
            "blocks": nn.ModuleList([nn.ModuleList([Block() for _ in range(n)]) for n in sizes])
        })  # fmt: skip

    state, model = stages([2, 2]).state_dict(), stages([4])
    plan = tg.plan(model, state, on_doubt="skip")
    assert all(
        step.feeds[0].key == step.slot.name for step in plan.steps if step.feeds and step.why.rule == "same name"
    )
    assert not any("read as" in step.why.text for step in plan.steps)


def test_a_module_that_the_model_has_by_name_is_not_read_as_one_of_a_chunk():
    """A bias that a norm was fused into went to a norm, as `conv.0.1` could be a layer `conv.1` in a first chunk."""

    def net(fused):
        norm = nn.Identity if fused else nn.BatchNorm2d
        inner = nn.Sequential(nn.Conv2d(8, 8, 3, groups=8, bias=fused), norm(8))
        conv = nn.Sequential(inner, nn.Conv2d(8, 8, 1, bias=fused), norm(8))
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ModuleDict({"conv": conv}))

    plan = tg.plan(net(fused=False), net(fused=True).state_dict())
    assert {step.slot.name for step in plan.doubtful} == {"1.conv.0.0.weight", "1.conv.1.weight"}
    assert {one.spec.name for one in plan.unused} == {"1.conv.0.0.bias", "1.conv.1.bias"}
