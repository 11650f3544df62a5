"""A part that another library names, in a file whose other names agree, is judged as a foreign file is."""

import torch
from filling import filled
from torch import nn

import torchgraft as tg


def tower(names, last):
    blocks = [
        nn.ModuleDict({names[1]: nn.LayerNorm(8), names[2]: nn.Linear(8, 12), names[3]: nn.Linear(12, 8)})
        for _ in range(3)
    ]
    return nn.ModuleDict({names[0]: nn.ModuleList(blocks), last: nn.LayerNorm(8)})


def both(tower_name, names, last):
    text = nn.ModuleList([nn.ModuleDict({"key": nn.Linear(16, 16), "dense": nn.Linear(16, 16)}) for _ in range(4)])
    return filled(nn.ModuleDict({tower_name: tower(names, last), "text_decoder": text}))


def test_a_tower_under_other_names_is_filled_to_its_last_norm():
    source = both("visual_encoder", ("blocks", "norm1", "fc1", "fc2"), "norm")
    target = both("vision_model", ("layers", "layer_norm", "up", "down"), "post_layernorm")
    tg.load(target, source.state_dict(), on_doubt="take")
    ours, theirs = source["visual_encoder"], target["vision_model"]
    assert torch.equal(theirs["post_layernorm"].weight, ours["norm"].weight)
    assert torch.equal(theirs["layers"][2]["down"].weight, ours["blocks"][2]["fc2"].weight)


def test_where_the_tower_is_familiar_a_leftover_of_another_name_stays_fresh():
    source = both("visual", ("blocks", "norm1", "fc1", "fc2"), "norm")
    target = both("visual", ("blocks", "norm1", "fc1", "fc2"), "fc_norm")
    plan = tg.plan(target, source.state_dict(), on_doubt="take")
    assert not any(step.feeds for step in plan.steps if "fc_norm" in step.slot.name)
