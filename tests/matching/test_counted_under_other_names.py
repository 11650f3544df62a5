"""Lists of other names that count from different numbers and differ in length: no number says which member is which."""

import pytest
import torch
from filling import filled
from torch import nn

import torchgraft as tg

WIDTH = 6


def block():
    return nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "up": nn.Linear(WIDTH, 9), "down": nn.Linear(9, WIDTH)})


def net(name, first, length):
    rows = nn.Module()
    for number in range(first, first + length):
        rows.add_module(str(number), block())
    return filled(nn.ModuleDict({"embed": nn.Embedding(11, WIDTH), name: rows, "head": nn.Linear(WIDTH, 3)}))


@pytest.mark.parametrize(("ours", "theirs"), [((0, 6), (1, 4)), ((1, 4), (0, 6)), ((0, 4), (1, 6)), ((1, 6), (0, 4))])
def test_like_blocks_counted_otherwise_are_in_doubt(ours, theirs):
    file, model = net("layers", *ours).state_dict(), net("blocks", *theirs)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(tg.PlanRefusedError, match="counts this list from another number"):
        tg.load(model, file)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("lengths", [(4, 4), (1, 1)])
def test_lists_of_equal_length_agree_whatever_they_count_from(lengths):
    file, model = net("layers", 0, lengths[0]).state_dict(), net("blocks", 1, lengths[1])
    tg.load(model, file)
    assert torch.equal(model.state_dict()["blocks.1.up.weight"], file["layers.0.up.weight"])


def test_lists_that_count_from_one_number_agree_as_far_as_the_shorter_goes():
    file, model = net("layers", 1, 4).state_dict(), net("blocks", 1, 6)
    tg.load(model, file)
    assert torch.equal(model.state_dict()["blocks.2.up.weight"], file["layers.2.up.weight"])


def attentions(outer, names, depth):
    layers = [
        nn.ModuleDict({name: nn.ModuleDict({part: nn.Linear(WIDTH, WIDTH) for part in "qkvo"}) for name in names})
        for _ in range(depth)
    ]
    return filled(nn.ModuleDict({outer: nn.ModuleList(layers)}))


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_two_attentions_in_each_layer_are_no_layers_however_many_there_are(depth):
    file = attentions("l", ("attn1", "attn2"), depth).state_dict()
    model = attentions("h", ("self_attn", "cross_attn"), depth)
    tg.load(model, file)
    assert torch.equal(model.state_dict()["h.0.cross_attn.k.weight"], file["l.0.attn2.k.weight"])
